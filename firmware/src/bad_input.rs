//! What a host may get wrong: one line that says what and where, and a code of its own.

use std::string::String;
use std::vec;
use std::vec::Vec;

use abi::e820::{Entry, Kind};
use abi::firmware::Code;
use abi::fw_cfg::name;
use zerocopy::IntoBytes;

use crate::fake::Fake;
use crate::fake::pci::{Function, Pci};
use crate::properties::{RAM, archive, boot, boot_file, elf64, multiboot1_kernel};

/// That a boot ends with this code, and with a line that has these words.
fn refused(result: Result<crate::handover::Entry, (String, u8)>, code: Code, words: &str) {
    let (line, found) = result.expect_err(words);
    assert_eq!((found, line.contains(words)), (code.0, true), "{line:?} has to say {words:?}");
}

#[test]
fn scripts() {
    let command = |kind: u32, rest: &[&[u8]]| {
        let mut bytes = [&kind.to_le_bytes()[..], &rest.concat()].concat();
        bytes.resize(128, 0);
        bytes
    };
    let (file, other) = (name("etc/file"), name("etc/other"));
    let allocate = command(1, &[&file, &16u32.to_le_bytes(), &[2]]);
    let numbers = |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|it| it.to_le_bytes()).collect() };
    let pointer = |offset: u32, size: u8| command(2, &[&file, &file, &offset.to_le_bytes(), &[size]]);
    let checksum = |fields: [u32; 3]| command(3, &[&file, &numbers(&fields)]);
    let cases: [(Vec<u8>, &str); 12] = [
        (vec![0; 127], "127 bytes are no list"),
        (command(9, &[&file]), "command 0: unknown command 0x9"),
        (command(1, &[&other, &16u32.to_le_bytes(), &[2]]), "command 0 names a file that there is not"),
        (command(1, &[&file, &16u32.to_le_bytes(), &[3]]), "command 0: zone 3"),
        (command(1, &[&file, &24u32.to_le_bytes(), &[2]]), "alignment 0x18"),
        (pointer(0, 8), "command 0 names a file"),
        ([&allocate[..], &allocate].concat(), "command 1 allocates a file once more"),
        ([&allocate[..], &pointer(25, 8)].concat(), "command 1: 8 bytes at 0x19 are outside"),
        ([&allocate[..], &pointer(u32::MAX, 4)].concat(), "4 bytes at 0xffffffff are outside"),
        ([&allocate[..], &pointer(0, 3)].concat(), "or no pointer"),
        ([&allocate[..], &checksum([32, 0, 32])].concat(), "command 1: 1 bytes at 0x20"),
        ([&allocate[..], &checksum([0, 1, 32])].concat(), "command 1: 32 bytes at 0x1"),
    ];
    for (script, words) in cases {
        let mut fake = Fake::with_ram(RAM);
        fake.add_file("etc/file", &[0; 32]);
        fake.add_file("etc/table-loader", &script);
        refused(boot(&mut fake), Code::ACPI, words);
    }
}

#[test]
fn memory() {
    let entry = |addr: u64, size: u64| Entry { addr: addr.into(), size: size.into(), kind: Kind::RAM };
    let cases: [(Vec<u8>, &str); 5] = [
        (vec![], "no memory at 1 MiB"),
        (vec![0; 19], "19 bytes"),
        (entry(0, 0xa_0000).as_bytes().to_vec(), "no memory at 1 MiB"),
        ([entry(0, 2 << 20), entry(1 << 20, 1 << 20)].as_bytes().to_vec(), "entry 1"),
        (entry(1 << 20, u64::MAX).as_bytes().to_vec(), "entry 0"),
    ];
    for (map, words) in cases {
        let mut fake = Fake::with_ram(RAM);
        fake.set_last_file(&map);
        let directory = fake.fw_cfg.as_mut().and_then(|it| it.items.get_mut(&abi::fw_cfg::key::FILE_DIR));
        directory.expect("a directory")[4..8].copy_from_slice(&(map.len() as u32).to_be_bytes());
        refused(boot(&mut fake), Code::NO_MEMORY, words);
    }
    let mut fake = Fake::with_ram(RAM);
    fake.set_item(abi::fw_cfg::key::FILE_DIR, &[0; 4]);
    refused(boot(&mut fake), Code::NO_MEMORY, "no file etc/e820");
}

#[test]
fn files() {
    let elf = |segments: &[[u64; 4]]| elf64(0x20_0000, segments);
    let mut many = elf(&[[0x20_0000, 0, 0x1000, 0x1000]]);
    many[56..58].copy_from_slice(&129u16.to_le_bytes());
    refused(boot_file(&many, None, None), Code::KERNEL, "129 program headers");
    let longer = elf(&[[0x20_0000, 0, 0x1000, 0xfff]]);
    refused(boot_file(&longer, None, None), Code::KERNEL, "larger than its memory");
    let elsewhere = elf(&[[0x21_0000, 0, 0x1000, 0x1000]]);
    refused(boot_file(&elsewhere, None, None), Code::KERNEL, "the entry 0x200000");
    let mut checksum = multiboot1_kernel();
    checksum[0x48] ^= 1;
    refused(boot_file(&checksum, None, None), Code::KERNEL, "unknown format");
    let mut linux = vec![0; 4096];
    linux[0x1f1] = 31;
    linux[0x202..0x206].copy_from_slice(b"HdrS");
    refused(boot_file(&linux, None, None), Code::KERNEL, "unknown format");
    let large = vec![7; 2 << 20];
    let modules = archive(&[("", &large), ("", &large)]);
    let kernel = elf(&[[0x20_0000, 0, 0x1000, 0x1000]]);
    refused(boot_file(&kernel, None, Some(&modules)), Code::NO_ROOM, "no room for modules");
    let kernel = elf(&[[0x1_0000, 0, 0x1000, 0x1000]]);
    refused(boot_file(&kernel, None, None), Code::KERNEL, "from 1 MiB on");
}

#[test]
fn devices() {
    let mut host = Function::device(None, 0);
    host.set_id(0x1237_8086);
    let mut fake = Fake::with_ram(RAM);
    fake.pci = Some(Pci::new(vec![host, Function::device(None, 8).bar(0, 0, 1 << 31)]));
    refused(boot(&mut fake), Code::PCI, "no addresses are left for memory of 2097152 KiB on bus 0");
}
