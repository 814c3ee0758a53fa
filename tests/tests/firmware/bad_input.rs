//! What cannot be booted: one line that says why, and a code of its own.

use std::fs;
use std::path::Path;

use abi::firmware::{Code, KERNEL, MODULES, PROTOCOL};
use anyhow::Result;
use libtest_mimic::Trial;
use tests::suite;
use xtask::guests::{self, Form};

use super::{MACHINES, gives_up, machine};

/// The least that QEMU has for 64-bit mode, and all that it has.
const PROCESSORS: [&str; 2] = ["qemu64", "max"];

pub(super) fn trials(place: &Path) -> Vec<Trial> {
    let mut trials = Vec::new();
    for name in MACHINES {
        for processor in PROCESSORS {
            trials.push(suite::test(&format!("bad::nothing_to_boot on {name}, {processor}"), move || {
                let ctx = suite::context()?;
                let mut machine = machine(&ctx, name)?;
                machine.cpu = Some(processor.to_owned());
                gives_up(&ctx, &machine, Code::NOTHING_TO_BOOT, "nothing to boot")
            }));
        }
    }
    let text = b"#!/bin/sh\nexit 0\n".to_vec();
    trials.extend([
        file(place, "no_kernel", KERNEL, text.clone(), Code::KERNEL),
        file(place, "elf_header_alone", KERNEL, elf(|elf| elf.truncate(64)), Code::KERNEL),
        file(place, "segment_behind_the_end", KERNEL, elf(|elf| elf.truncate(0x40 + 0x38 + 8)), Code::KERNEL),
        file(place, "segment_on_the_bios", KERNEL, elf(|elf| move_to(elf, 0xf_0000)), Code::KERNEL),
        file(place, "segment_without_memory", KERNEL, elf(|elf| move_to(elf, 0xb000_0000)), Code::NO_ROOM),
        file(place, "segment_that_wraps", KERNEL, elf(|elf| move_to(elf, u64::MAX - 8)), Code::KERNEL),
        file(place, "segments_that_overlap", KERNEL, elf(overlapping), Code::KERNEL),
        file(place, "bzimage_cut_short", KERNEL, bzimage(), Code::KERNEL),
        file(place, "checksum_of_multiboot2", KERNEL, spoilt(multiboot2(6, 0)), Code::MULTIBOOT),
        file(place, "required_tag_of_multiboot2", KERNEL, multiboot2(0x99, 0), Code::MULTIBOOT),
        file(place, "multiboot2_without_end", KERNEL, multiboot2(0x99, u32::MAX), Code::MULTIBOOT),
        beside(place, "no_archive", MODULES, text.clone(), Code::MODULES),
        beside(place, "archive_cut_short", MODULES, archive(1, 48, 48, 1 << 20), Code::MODULES),
        beside(place, "archive_of_too_many", MODULES, archive(u32::MAX, 48, 48, 1), Code::MODULES),
        beside(place, "archive_with_wild_offset", MODULES, archive(1, 48, u64::MAX - 1, 4), Code::MODULES),
        beside(place, "unknown_protocol", PROTOCOL, b"efi".to_vec(), Code::PROTOCOL),
        beside(place, "protocol_of_other_kernels", PROTOCOL, b"linux16".to_vec(), Code::PROTOCOL),
    ]);
    trials.extend(machines(place));
    trials
}

/// Machines on which nothing can be booted.
fn machines(place: &Path) -> [Trial; 4] {
    let pointer_to_nothing =
        [2_u32.to_le_bytes().as_slice(), &[b'x'; 55], &[0], &[b'y'; 55], &[0; 12]].concat();
    let (script, modules) = (place.join("script"), place.join("large"));
    let large = archive(1, 48, 48, 48 << 20);
    let gives =
        |name, path: &Path| vec!["-fw_cfg".to_owned(), format!("name={name},file={}", path.display())];
    let script_args = gives("etc/table-loader", &script);
    let modules_args = gives(MODULES, &modules);
    // Each 256 MiB, and below 4 GiB.
    let screens =
        ["-device", "secondary-vga,vgamem_mb=256"].repeat(8).into_iter().map(str::to_owned).collect();
    [
        alone("script_of_unknown_files", "microvm,acpi=off", script_args, Code::ACPI, move || {
            Ok(fs::write(&script, pointer_to_nothing)?)
        }),
        alone("no_memory", "microvm", ["-m", "1M"].map(str::to_owned).to_vec(), Code::NO_MEMORY, || Ok(())),
        alone("pci_without_room", "pc", screens, Code::PCI, || Ok(())),
        alone("modules_that_do_not_fit", "microvm,acpi=off", modules_args, Code::NO_ROOM, move || {
            fs::write(&modules, large)?;
            Ok(fs::File::options().write(true).open(&modules)?.set_len(48 + (48 << 20))?)
        }),
    ]
}

/// A sound kernel of 32 MiB of memory on this machine, with these further arguments, after `prepare`.
fn alone(
    name: &'static str,
    on: &'static str,
    args: Vec<String>,
    code: Code,
    prepare: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    suite::test(&format!("bad::{name}"), move || {
        prepare()?;
        let ctx = suite::context()?;
        let mut machine = machine(&ctx, on)?;
        machine.memory_mib = 32;
        let kernel = guests::payload(&ctx, "pvh", Form::Elf64)?;
        machine.args.extend(["-fw_cfg".to_owned(), format!("name={KERNEL},file={}", kernel.display())]);
        machine.args.extend(args);
        gives_up(&ctx, &machine, code, "")
    })
}

/// With this file of fw_cfg alone.
fn file(place: &Path, name: &'static str, key: &'static str, bytes: Vec<u8>, code: Code) -> Trial {
    trial(place, name, key, bytes, code, false)
}

/// With this file of fw_cfg beside a sound kernel.
fn beside(place: &Path, name: &'static str, key: &'static str, bytes: Vec<u8>, code: Code) -> Trial {
    trial(place, name, key, bytes, code, true)
}

fn trial(
    place: &Path,
    name: &'static str,
    key: &'static str,
    bytes: Vec<u8>,
    code: Code,
    kernel: bool,
) -> Trial {
    let path = place.join(name);
    suite::test(&format!("bad::{name}"), move || {
        fs::write(&path, bytes)?;
        let ctx = suite::context()?;
        let mut machine = machine(&ctx, "microvm")?;
        let mut give = |key: &str, path: &Path| -> Result<()> {
            let value = format!("name={key},file={}", path.display());
            machine.args.extend(["-fw_cfg".to_owned(), value]);
            Ok(())
        };
        give(key, &path)?;
        if kernel {
            give(KERNEL, &guests::payload(&ctx, "pvh", Form::Elf64)?)?;
        }
        gives_up(&ctx, &machine, code, "")
    })
}

/// An ELF64 file of one segment of 4 KiB at 1 MiB, of which 16 bytes are in the file; changed.
fn elf(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut elf = vec![0; 0x40 + 0x38 + 16];
    elf[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    elf[20] = 1;
    put(&mut elf, 24, 0x10_0000); // e_entry
    put(&mut elf, 32, 0x40); // e_phoff
    elf[52] = 0x40; // e_ehsize
    elf[54] = 0x38; // e_phentsize
    elf[56] = 1; // e_phnum
    put(&mut elf, 0x40, 7 << 32 | 1); // p_flags, PT_LOAD
    for (at, value) in [(8, 0x78), (16, 0x10_0000), (24, 0x10_0000), (32, 16), (40, 4096), (48, 4096)] {
        put(&mut elf, 0x40 + at, value);
    }
    change(&mut elf);
    elf
}

/// Gives it its segment twice.
fn overlapping(elf: &mut Vec<u8>) {
    let segment = elf[0x40..0x78].to_vec();
    elf.splice(0x78..0x78, segment);
    elf[56] = 2; // e_phnum
    [0x48, 0x80].into_iter().for_each(|at| put(elf, at, 0xb0)); // p_offset
}

/// The setup code of a kernel of 64 KiB, and 512 bytes of that.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 4 * 512];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[2]); // setup_sects
    put(0x1f4, &0x1000_u32.to_le_bytes()); // syssize
    put(0x200, b"\xeb\x6aHdrS\x0f\x02");
    put(0x211, &[1]); // loadflags
    put(0x236, &[1]); // xloadflags
    file
}

/// With one more byte in the checksum of its header, which is its end.
fn spoilt(mut file: Vec<u8>) -> Vec<u8> {
    let at = file.len() - 32 + 12;
    file[at] ^= 1;
    file
}

/// Moves it to this address.
fn move_to(elf: &mut [u8], addr: u64) {
    [24, 0x40 + 16, 0x40 + 24].into_iter().for_each(|at| put(elf, at, addr));
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A sound ELF file whose Multiboot 2 header has one tag, of this type, with `more` added to its length.
fn multiboot2(tag: u16, more: u32) -> Vec<u8> {
    const MAGIC: u32 = 0xe852_50d6;
    let len = 16 + 8 + 8_u32;
    let words = [MAGIC, 0, len, 0u32.wrapping_sub(MAGIC + len), tag.into(), 8u32.wrapping_add(more), 0, 8];
    let mut file = elf(|_| {});
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file
}

/// The head of an archive that says this of its one module.
fn archive(count: u32, head_len: u32, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = b"JIFFYMD1".to_vec();
    bytes.extend([count, head_len].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([offset, len, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    bytes
}
