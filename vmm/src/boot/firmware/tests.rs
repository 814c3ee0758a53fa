use super::super::testing::{ElfFile, bzimage, file, relocatable, request};
use super::super::{Input, Request, load};
use super::*;
use crate::memory::layout::RamLayout;

/// What a firmware is told of a kernel, and what is in memory already.
fn given(
    kernel: &[u8],
    change: impl FnOnce(&mut Request<'_>),
) -> Result<(Contents, Vec<MemoryWrite>), Error> {
    let mut asked = request(kernel);
    asked.firmware = Some(Input { file: file(&[0x90; 65536]), name: "rom" });
    change(&mut asked);
    let state = load(&asked)?;
    assert_eq!(state.cpu, BootCpu::Reset);
    Ok((state.firmware.unwrap().contents, state.writes))
}

fn bytes(content: Option<&Content>) -> Vec<u8> {
    let content = content.expect("the item");
    let mut bytes = vec![0; content.len() as usize];
    content.read(0, &mut bytes).unwrap();
    bytes
}

fn number(contents: &Contents, key: u16) -> u32 {
    u32::from_le_bytes(bytes(contents.get(key)).try_into().unwrap())
}

#[test]
fn a_bzimage_goes_as_qemu_gives_it() {
    let kernel = bzimage(&relocatable());
    let initrd = || Some(Input { file: file(&[7; 5000]), name: "initrd" });
    let (contents, writes) = given(&kernel, |asked| asked.initrd = initrd()).unwrap();
    assert!(writes.is_empty() && contents.named(KERNEL).is_none() && contents.named(PROTOCOL).is_none());
    let setup = bytes(contents.get(key::SETUP_DATA));
    assert_eq!(number(&contents, key::SETUP_SIZE) as usize, setup.len());
    assert_eq!([&setup[..], &bytes(contents.get(key::KERNEL_DATA))].concat().len(), kernel.len());
    assert_eq!(bytes(contents.get(key::KERNEL_DATA)), kernel[setup.len()..]);
    let places = [key::SETUP_ADDR, key::CMDLINE_ADDR, key::KERNEL_ADDR].map(|key| number(&contents, key));
    assert_eq!(places, [0x1_0000, 0x2_0000, 0x10_0000]);
    assert_eq!(bytes(contents.get(key::CMDLINE_DATA)), b"console=ttyS0\0");
    let field = |at: usize| u32::from_le_bytes(setup[at..at + 4].try_into().unwrap());
    assert_eq!((setup[0x210], field(0x228)), (0xb0, 0x2_0000));
    assert_eq!((field(0x218), field(0x21c)), (number(&contents, key::INITRD_ADDR), 5000));
    assert_eq!(bytes(contents.get(key::INITRD_DATA)), [7; 5000]);
    assert_eq!(field(0x218) % 4096, 0);
    assert!(u64::from(field(0x218)) + 5000 <= (64 << 20) - TABLES_LEN);
    let changed = [0x210..0x212, 0x218..0x220, 0x224..0x226, 0x228..0x22c];
    let same = (0..setup.len()).filter(|at| !changed.iter().any(|range| range.contains(at)));
    assert!(same.into_iter().all(|at| setup[at] == kernel[at]));
}

#[test]
fn a_pvh_kernel_is_in_memory_and_its_entry_told() {
    let mut elf = ElfFile::new(1 << 20, vec![0xf4; 64]).with_note("Xen", 18, &0x10_0010u32.to_le_bytes());
    elf.segments[0].2 = 8192;
    let (contents, writes) = given(&elf.build(), |_| {}).unwrap();
    let [write] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!((write.addr, write.len()), (1 << 20, 64));
    let keys = [key::KERNEL_ENTRY, key::KERNEL_ADDR, key::KERNEL_SIZE];
    assert_eq!(keys.map(|key| number(&contents, key)), [0x10_0010, 0x10_0000, 8192]);
    assert!(bytes(contents.get(key::SETUP_DATA)).starts_with(b"\x7fELF"));
    assert!(contents.get(key::KERNEL_DATA).is_none());
}

#[test]
fn other_kernels_go_as_they_are() {
    let note =
        ElfFile::new(1 << 20, vec![0xf4; 64]).with_note("Xen", 18, &0x10_0010u32.to_le_bytes()).build();
    let mut multiboot = note.clone();
    let at = multiboot.len().next_multiple_of(4);
    multiboot.resize(at, 0);
    for word in [0x1bad_b002_u32, 3, 0u32.wrapping_sub(0x1bad_b002 + 3)] {
        multiboot.extend_from_slice(&word.to_le_bytes());
    }
    let plain = ElfFile::new(1 << 20, vec![0xf4; 64]).build();
    for kernel in [&multiboot, &plain] {
        let (contents, writes) = given(kernel, |_| {}).unwrap();
        assert!(writes.is_empty() && contents.get(key::KERNEL_SIZE).is_none());
        assert_eq!(bytes(contents.named(KERNEL)), *kernel);
        assert_eq!(bytes(contents.named(CMDLINE)), b"console=ttyS0\0");
    }
    let (contents, _) = given(&note, |asked| asked.protocol = Protocol::Elf64).unwrap();
    assert_eq!(bytes(contents.named(PROTOCOL)), b"elf64");
    assert_eq!(bytes(contents.named(KERNEL)), note);
}

#[test]
fn an_initrd_of_other_kernels_is_a_module() {
    let plain = ElfFile::new(1 << 20, vec![0xf4; 64]).build();
    let initrd = Input { file: file(b"module"), name: "initrd" };
    let (contents, _) = given(&plain, |asked| asked.initrd = Some(initrd)).unwrap();
    let found = bytes(contents.named(MODULES));
    assert_eq!(found[..16], *b"JIFFYMD1\x01\0\0\0\x30\0\0\0");
    assert_eq!(found[16..32], *b"\x30\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0");
    assert_eq!(found[48..], *b"module");
}

#[test]
fn what_cannot_be_given_is_named() {
    let kernel = bzimage(&relocatable());
    let error = |kernel: &[u8], change: fn(&mut Request<'_>)| given(kernel, change).unwrap_err().to_string();
    assert!(error(&kernel[..1000], |_| {}).contains("is cut short: the real-mode code"));
    assert!(
        error(&kernel, |asked| asked.initrd = Some(Input { file: file(&[]), name: "i" }))
            .contains("is empty")
    );
    assert!(error(&kernel, |asked| asked.cmdline = "a\0b").contains("NUL byte at 1"));
    assert!(error(&kernel, |asked| asked.protocol = Protocol::Pvh).contains("inside its compressed payload"));
    let plain = ElfFile::new(1 << 20, vec![0xf4; 64]).build();
    assert!(error(&plain, |asked| asked.protocol = Protocol::Pvh).contains("has no PVH entry"));
    let high =
        ElfFile::new(1 << 30, vec![0xf4; 64]).with_note("Xen", 18, &(1u32 << 30).to_le_bytes()).build();
    assert!(error(&high, |asked| asked.ram = RamLayout::new(8 << 20)).contains("of RAM below 3 GiB"));
}
