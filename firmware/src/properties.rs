//! Whatever a host gives: a payload is entered in memory that is its own, or one line says why not.

use std::string::String;
use std::vec;
use std::vec::Vec;

use crate::fake::pci::{Function, Pci};
use crate::fake::{Access, Fake};
use crate::handover::Entry;
use crate::machine::Machine;
use crate::memory_map::{FOUR_GIB, MemoryMap};
use crate::payload::elf::Elf;
use crate::payload::modules::Modules;
use crate::payload::{linux, multiboot1, multiboot2, pvh};
use crate::power::Vmm;
use abi::e820::{Entry as E820, Kind};
use abi::firmware::Protocol;
use abi::modules::{Entry as ModuleEntry, header};
use proptest::prelude::*;
use zerocopy::IntoBytes;

pub(crate) const RAM: usize = 4 << 20;

/// Boots; the entry, or the line and the code.
pub(crate) fn boot(fake: &mut Fake) -> Result<Entry, (String, u8)> {
    if let Some(entry) = crate::run(fake, || Vmm::Other) {
        assert_eq!(fake.serial_output(), "", "a boot says nothing");
        return Ok(entry);
    }
    let line = fake.serial_output();
    assert!(line.starts_with("jiffy-firmware: ") && line.ends_with("\r\n"), "{line:?}");
    assert_eq!(line.lines().count(), 1, "{line:?}");
    let code = fake.log.iter().find_map(|access| match *access {
        Access::U8(abi::ports::DEBUG_EXIT, code) => Some(code),
        _ => None,
    });
    Err((line, code.expect("a code")))
}

/// Boots a file, by a protocol or by what it is.
pub(crate) fn boot_file(
    kernel: &[u8],
    protocol: Option<Protocol>,
    modules: Option<&[u8]>,
) -> Result<Entry, (String, u8)> {
    let mut fake = Fake::with_ram(RAM);
    fake.add_file(abi::firmware::KERNEL, kernel);
    fake.add_file(abi::firmware::CMDLINE, b"one two");
    if let Some(protocol) = protocol {
        fake.add_file(abi::firmware::PROTOCOL, protocol.word().as_bytes());
    }
    if let Some(modules) = modules {
        fake.add_file(abi::firmware::MODULES, modules);
    }
    boot(&mut fake)
}

/// A file with these bytes at these places.
fn file(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut file = vec![0x90; len];
    for (at, bytes) in parts {
        file[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// A 64-bit ELF file with these segments: address, offset, bytes in the file, bytes in memory.
pub(crate) fn elf64(entry: u64, segments: &[[u64; 4]]) -> Vec<u8> {
    let mut bytes = vec![0; 0x1000];
    bytes[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes[16..20].copy_from_slice(&[2, 0, 62, 0]);
    bytes[24..32].copy_from_slice(&entry.to_le_bytes());
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
    for (i, [addr, offset, file_len, mem_len]) in segments.iter().enumerate() {
        let header = [1 | 7 << 32, *offset, *addr, *addr, *file_len, *mem_len, 0x1000];
        bytes[64 + i * 56..][..56].copy_from_slice(header.as_bytes());
    }
    bytes
}

/// A static PIE of one segment, whose dynamic section names these relocations.
fn static_pie(relocations: &[[u64; 3]]) -> Vec<u8> {
    let mut bytes = elf64(0x800, &[[0, 0, 0x1000, 0x2000], [0x400, 0x400, 0x40, 0x40]]);
    bytes[16] = 3;
    bytes[64 + 56] = 2;
    let dynamic = [[7_u64, 0x500], [8, relocations.len() as u64 * 24], [9, 24], [0, 0]];
    bytes[0x400..0x440].copy_from_slice(dynamic.as_bytes());
    bytes[0x500..][..relocations.len() * 24].copy_from_slice(relocations.as_bytes());
    bytes
}

#[test]
fn a_static_pie_is_relocated() {
    let boots = |relocations: &[[u64; 3]]| {
        let mut fake = Fake::with_ram(RAM);
        fake.add_file(abi::firmware::KERNEL, &static_pie(relocations));
        (boot(&mut fake), fake)
    };
    let (entered, fake) = boots(&[[0x700, 8, 0x800], [0x708, 0, 1], [0x1ff8, 8, u64::MAX]]);
    assert!(matches!(entered, Ok(Entry::Long { rip: 0x20_0800, .. })), "{entered:x?}");
    assert_eq!(fake.read::<[u64; 2]>(0x20_0700), [0x20_0800, 0]);
    assert_eq!(fake.read::<u64>(0x20_1ff8), 0x1f_ffff, "what is behind the file's bytes as well");
    for wrong in [[0x1ff9, 8, 0], [u64::MAX, 8, 0], [0x700, 6, 0], [0x700, 1 << 32 | 8, 0]] {
        let (line, code) = boots(&[wrong]).0.expect_err("no such relocation");
        assert!(line.contains("relocation") && code == abi::firmware::Code::KERNEL.0, "{line}");
    }
    let mut needy = static_pie(&[]);
    needy[0x430] = 1;
    let (line, _) = boot_file(&needy, None, None).expect_err("a dynamic program");
    assert!(line.contains("dynamic linker"), "{line}");
}

pub(crate) fn archive(modules: &[(&str, &[u8])]) -> Vec<u8> {
    let strings: usize = modules.iter().map(|(string, _)| string.len()).sum();
    let head = header(modules.len(), strings).expect("few");
    let mut string_at = 16 + modules.len() * 32;
    let mut data_at = head.head_len.get() as usize;
    let mut bytes = head.as_bytes().to_vec();
    for (string, data) in modules {
        let entry = ModuleEntry {
            data_offset: (data_at as u64).into(),
            data_len: (data.len() as u64).into(),
            string_offset: (string_at as u32).into(),
            string_len: (string.len() as u32).into(),
            reserved: 0.into(),
        };
        bytes.extend_from_slice(entry.as_bytes());
        string_at += string.len();
        data_at += data.len();
    }
    modules.iter().for_each(|(string, _)| bytes.extend_from_slice(string.as_bytes()));
    modules.iter().for_each(|(_, data)| bytes.extend_from_slice(data));
    bytes
}

pub(crate) fn multiboot1_kernel() -> Vec<u8> {
    let flags = 1u32 << 16 | 3;
    let header = [0x1bad_b002, flags, (0x1bad_b002u32.wrapping_add(flags)).wrapping_neg()];
    let addresses = [0x10_0040u32, 0x10_0000, 0, 0x10_2000, 0x10_0100];
    file(0x1000, &[(0x40, header.as_bytes()), (0x4c, addresses.as_bytes())])
}

fn multiboot2_kernel() -> Vec<u8> {
    multiboot2_kernel_with(&[])
}

/// With further tags of the header, whose sizes are multiples of 8.
pub(crate) fn multiboot2_kernel_with(more: &[u32]) -> Vec<u8> {
    let addresses = [2u32, 24, 0x10_0000, 0x10_0000, 0, 0x10_2000, 3, 12, 0x10_0100, 0];
    let tags = [&addresses[..], more, &[0, 8]].concat();
    let len = 16 + size_of_val(&tags[..]) as u32;
    let header = [0xe852_50d6, 0, len, 0u32.wrapping_sub(0xe852_50d6).wrapping_sub(len)];
    file(0x1000, &[(0, header.as_bytes()), (16, tags.as_bytes())])
}

#[test]
fn each_kind_of_kernel_is_entered() {
    let modules = archive(&[("initrd quiet", b"first"), ("", b"second")]);
    let modules = Some(&modules[..]);
    let elf = elf64(0x20_0010, &[[0x20_0000, 0, 0x1000, 0x3000]]);
    let entered = boot_file(&elf, None, modules).expect("a unikernel");
    assert!(
        matches!(entered, Entry::Long { rip: 0x20_0010, rsi: abi::unikernel::MAGIC, .. }),
        "{entered:x?}"
    );
    let entered = boot_file(&multiboot1_kernel(), None, modules).expect("Multiboot");
    assert!(matches!(entered, Entry::Protected { eip: 0x10_0100, eax: 0x2bad_b002, .. }), "{entered:x?}");
    let entered = boot_file(&multiboot2_kernel(), None, modules).expect("Multiboot 2");
    assert!(matches!(entered, Entry::Protected { eip: 0x10_0100, eax: 0x36d7_6289, .. }), "{entered:x?}");
}

#[test]
fn wrong_files_are_told_apart() {
    use abi::firmware::Code;
    let elf = |segments: &[[u64; 4]]| elf64(0x20_0000, segments);
    let good = elf(&[[0x20_0000, 0, 0x1000, 0x1000]]);
    let cases: [(&[u8], Option<Protocol>, Code); 10] = [
        (b"nothing", None, Code::KERNEL),
        (&[], None, Code::KERNEL),
        (&good[..100], None, Code::KERNEL),
        (&elf(&[]), None, Code::KERNEL),
        (&elf(&[[0x20_0000, 0, 0x1000, 0x1000], [0x20_0800, 0, 0x10, 0x10]]), None, Code::KERNEL),
        (&elf(&[[0x20_0000, 0x800, 0x1000, 0x1000]]), None, Code::KERNEL),
        (&elf(&[[0x20_0000, 0, 0x1000, 1 << 30]]), None, Code::NO_ROOM),
        (&elf(&[[u64::MAX - 4, 0, 0x1000, 0x1000]]), None, Code::KERNEL),
        (&good, Some(Protocol::Pvh), Code::PROTOCOL),
        (&good, Some(Protocol::Linux64), Code::PROTOCOL),
    ];
    for (i, (kernel, protocol, code)) in cases.into_iter().enumerate() {
        let error = boot_file(kernel, protocol, None).expect_err("nothing to boot");
        assert_eq!(error.1, code.0, "case {i}: {}", error.0);
    }
    let mut graphics = multiboot1_kernel();
    graphics[0x44] |= 4;
    graphics[0x48] -= 4;
    assert_eq!(boot_file(&graphics, None, None).expect_err("no video").1, Code::MULTIBOOT.0);
    assert_eq!(boot_file(&good, None, Some(b"JIFFYMD2")).expect_err("no archive").1, Code::MODULES.0);
}

/// Bytes that start as one of the formats, and then do not.
fn kernel() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        Just(elf64(0x20_0010, &[[0x20_0000, 0, 0x1000, 0x3000], [0x21_0000, 0x800, 16, 0x1000]])),
        Just(multiboot1_kernel()),
        Just(multiboot2_kernel()),
        Just(file(0x1000, &[(0x1f1, &[1]), (0x202, b"HdrS\x0f\x02"), (0x211, &[1]), (0x236, &[1])])),
    ];
    let changes = prop::collection::vec((0..0x280usize, any::<u8>()), 0..12);
    (start, changes, 0..0x1000usize).prop_map(|(mut file, changes, cut)| {
        for (at, byte) in changes {
            file[at] = byte;
        }
        file.truncate(if cut < 0x400 { cut } else { 0x1000 });
        file
    })
}

fn protocol() -> impl Strategy<Value = Option<Protocol>> {
    prop::option::of(prop::sample::select(&Protocol::ALL[..]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_kernel_is_entered_or_refused(kernel in kernel(), protocol in protocol(), modules in any::<bool>()) {
        let modules = modules.then(|| archive(&[("a", &[1; 100]), ("b c", &[2; 5000])]));
        if let Ok(entry) = boot_file(&kernel, protocol, modules.as_deref()) {
            match entry {
                Entry::Protected { ebx, esi, .. } => prop_assert!((ebx | esi) < 0x9000),
                Entry::Long { rsp, .. } => prop_assert!(rsp % 8 == 0),
                Entry::Real { cs, ds, .. } => prop_assert_eq!(cs, ds + 0x20),
            }
        }
    }

    #[test]
    fn any_archive_gives_modules_within_it(head in prop::collection::vec(any::<u8>(), 0..300), valid in any::<bool>(), size in 0..1000u32) {
        let mut head = head;
        if valid && head.len() >= 16 {
            head[..8].copy_from_slice(b"JIFFYMD1");
            head[9..12].fill(0);
            head[13..16].fill(0);
        }
        let archive = crate::fw_cfg::Item { select: 0x20, size };
        let mut modules = Modules::new();
        if crate::payload::modules::parse(&head, archive, &mut modules).is_ok() {
            for module in modules {
                prop_assert!(module.len <= size);
            }
        }
    }

    #[test]
    fn maps_stay_in_order(
        starts in prop::collection::vec((0..64u64, 1..8u64), 0..12),
        sets in prop::collection::vec((0..64u64, 1..16u64, any::<bool>()), 0..12),
        len in 1..20u64,
    ) {
        let mut map = MemoryMap::default();
        let page = |n: u64| (n + 0x100) << 12;
        let mut next = 0;
        let mut bytes = Vec::new();
        for (gap, len) in starts {
            let (addr, size) = (page(next + gap), len << 12);
            next += gap + len;
            bytes.extend_from_slice(E820 { addr: addr.into(), size: size.into(), kind: Kind::RAM }.as_bytes());
        }
        prop_assert_eq!(map.parse(&bytes), Ok(()));
        for (start, len, reserved) in sets {
            let kind = if reserved { Kind::RESERVED } else { Kind::RAM };
            prop_assert_eq!(map.set(page(start), page(start + len), kind), Ok(()));
            prop_assert!(!map.is_ram(page(start), page(start + len)) || !reserved);
        }
        prop_assert!(map.areas().windows(2).all(|two| two[0].end <= two[1].start));
        prop_assert!(map.areas().iter().all(|area| area.start < area.end));
        let bottom = map.find_bottom(len << 12, 0x1000, 0, FOUR_GIB);
        let top = map.find_top(len << 12, 0x1000, FOUR_GIB);
        prop_assert!(bottom.is_some() || top.is_none());
        if let (Some(bottom), Some(top)) = (bottom, top) {
            prop_assert!(bottom <= top && map.is_free(bottom, bottom + (len << 12)));
            prop_assert!(map.take(top, top + (len << 12)) && !map.is_free(top, top + 1));
        }
    }

    #[test]
    fn any_map_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut map = MemoryMap::default();
        if map.parse(&bytes).is_ok() {
            prop_assert!(map.areas().windows(2).all(|two| two[0].end <= two[1].start));
        }
    }

    #[test]
    fn any_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0..64usize) {
        let mut bytes = bytes;
        for magic in [&b"\x7fELF\x01\x01"[..], b"\x02\xb0\xad\x1b", b"\xd6\x50\x52\xe8\0\0\0\0"] {
            if let Some(place) = bytes.get_mut(at * 8..at * 8 + magic.len()) {
                place.copy_from_slice(magic);
            }
            if let Ok(elf) = Elf::parse(&bytes, bytes.len() as u32) {
                prop_assert!(elf.extent().end() <= FOUR_GIB);
            }
            let _ = multiboot2::Header::find(&bytes);
            if let Some(header) = multiboot1::Header::find(&bytes)
                && let Some(addresses) = header.addresses
                && let Ok(plan) = addresses.plan(header.offset, bytes.len() as u32)
            {
                prop_assert!(plan.offset + plan.file_len <= bytes.len() as u32 && plan.file_len <= plan.mem_len);
            }
        }
        let _ = linux::SetupHeader::find(&bytes).map(|header| header.setup_len());
        let _ = pvh::find(&bytes, 4);
        let _ = pvh::find(&bytes, 8);
    }

    #[test]
    fn any_script_is_run_or_refused(commands in prop::collection::vec(command(), 0..24)) {
        let mut fake = Fake::with_ram(RAM);
        for (i, name) in NAMES[..3].iter().enumerate() {
            fake.add_file(name, &vec![i as u8; 36 << (4 * i)]);
        }
        fake.add_file("etc/table-loader", &commands.concat());
        let (line, code) = boot(&mut fake).expect_err("there is no kernel");
        let codes = [abi::firmware::Code::NOTHING_TO_BOOT.0, abi::firmware::Code::ACPI.0];
        prop_assert!(codes.contains(&code), "{}", line);
    }

    #[test]
    fn any_devices_get_addresses_or_one_line(devices in prop::collection::vec(device(), 0..20)) {
        let mut fake = Fake::with_ram(RAM);
        let mut host = Function::device(None, 0);
        host.set_id(0x1237_8086);
        let mut functions = vec![host];
        for (i, (behind, is_bridge, bars)) in devices.into_iter().enumerate() {
            let bridges: Vec<_> = (0..functions.len()).filter(|&i| functions[i].is_bridge()).collect();
            let behind = behind.filter(|_| !bridges.is_empty()).map(|n| bridges[n % bridges.len()]);
            let index = (i as u8 + 4) << 3;
            let mut function = if is_bridge { Function::bridge(behind, index) } else { Function::device(behind, index) };
            for (n, (kind, bits)) in bars.into_iter().take(if is_bridge { 1 } else { 3 }).enumerate() {
                function = function.bar(n * 2, kind, 1 << bits);
            }
            functions.push(function);
        }
        fake.pci = Some(Pci::new(functions));
        let (_, code) = boot(&mut fake).expect_err("there is no kernel");
        if code == abi::firmware::Code::NOTHING_TO_BOOT.0 {
            fake.pci.expect("a bus").check();
        } else {
            prop_assert_eq!(code, abi::firmware::Code::PCI.0);
        }
    }
}

/// A device: behind which bridge, whether it is one, and base address registers with their bits of address.
fn device() -> impl Strategy<Value = (Option<usize>, bool, Vec<(u32, u32)>)> {
    let bar = prop_oneof![
        Just(1u32).prop_flat_map(|kind| (Just(kind), 4..9u32)),
        prop::sample::select(vec![0u32, 0b1000]).prop_flat_map(|kind| (Just(kind), 7..27u32)),
        prop::sample::select(vec![0b100u32, 0b1100]).prop_flat_map(|kind| (Just(kind), 7..34u32)),
    ];
    (prop::option::of(any::<usize>()), prop::bool::weighted(0.3), prop::collection::vec(bar, 0..4))
}

const NAMES: [&str; 4] = ["etc/acpi/rsdp", "etc/acpi/tables", "etc/other", "etc/none"];

/// A command of the script, most of the time one that makes sense.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let name = || (0..NAMES.len()).prop_map(|i| abi::fw_cfg::name(NAMES[i]));
    let number = || prop_oneof![0..40u32, any::<u32>()];
    let fields = (number(), number(), number(), prop::sample::select(vec![1u8, 2, 4, 8, 0]));
    (0..6u32, name(), name(), fields).prop_map(|(kind, one, two, (a, b, c, size))| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend_from_slice(&one);
        match kind {
            1 => bytes.extend([&(1u32 << (a % 13)).to_le_bytes()[..], &[1 + (b % 2) as u8]].concat()),
            2 => bytes.extend([&two[..], &a.to_le_bytes(), &[size]].concat()),
            3 => bytes.extend([a, b, c].map(u32::to_le_bytes).concat()),
            _ => bytes.extend([&two[..], &a.to_le_bytes(), &b.to_le_bytes(), &[size]].concat()),
        }
        bytes.resize(128, 0);
        bytes
    })
}
