//! The tiny guests in `tests/guests`, for suites and benches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use abi::{layout, ports, timeline::Mark};
use anyhow::{Context, Result};

use crate::apt;
use crate::ctx::Ctx;

/// Port by which a bench's payloads say how many instructions there were before them; free on all of QEMU's machines
/// with every firmware.
pub const BENCH_PORT: u16 = 0xe9;

/// What a loader finds in a payload's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// An ELF file of 32 bits.
    Elf32,
    /// An ELF file of 64 bits.
    Elf64,
    /// An image without a header of its file's own.
    Flat,
    /// Linux's `bzImage`.
    BzImage,
}

impl Form {
    /// Flags of the compiler, linker script, and what the file's name ends with.
    fn parts(self) -> (&'static [&'static str], &'static str, &'static str) {
        match self {
            Self::Elf32 => (&["-m32"], "elf.ld", ".elf32"),
            Self::Elf64 => (&[], "elf.ld", ".elf64"),
            Self::Flat => (&["-DFLAT", "-Wl,--oformat=binary"], "elf.ld", ".flat"),
            Self::BzImage => (&["-Wl,--oformat=binary"], "bzimage.ld", ".bzimage"),
        }
    }
}

/// Assembles `tests/guests/NAME.S` into an ELF file with a PVH entry that loads at 1 MiB, and returns where that is.
/// Several may do so at once.
pub fn build(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    assemble(ctx, name, Path::new("guest.ld"), &[], "")
}

/// Assembles `tests/guests/payload/NAME.S`, which a firmware loads, and returns where that is. Several may do so at
/// once.
pub fn payload(ctx: &Ctx, name: &str, form: Form) -> Result<PathBuf> {
    let (flags, script, suffix) = form.parts();
    assemble(ctx, &format!("payload/{name}"), &Path::new("payload").join(script), flags, suffix)
}

/// Bytes of a block of what the guests `block` and `pmem` read and write.
pub const BLOCK: u32 = 4096;
/// And how many there are.
pub const BLOCKS: u32 = 64;

/// All of it, before they have run or after: in each block the number of its first sector, and at the end the
/// complement of that, or the other way round.
#[must_use]
pub fn disk(written: bool) -> Vec<u8> {
    let block = |number: u32| {
        let sector = number * (BLOCK / 512);
        let (first, last) = if written { (!sector, sector) } else { (sector, !sector) };
        let rest = vec![0; BLOCK as usize - 8];
        [first.to_le_bytes().to_vec(), rest, last.to_le_bytes().to_vec()].concat()
    };
    (0..BLOCKS).flat_map(block).collect()
}

fn assemble(ctx: &Ctx, name: &str, script: &Path, flags: &[&str], suffix: &str) -> Result<PathBuf> {
    let sources = ctx.root.join("tests/guests");
    let to = ctx.target.join("guests").join(format!("{name}{suffix}"));
    let folder = to.parent().context("a guest without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Two builds of one guest make the same bytes; either may be the last to put them in place.
    let unfinished = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot create a file in {}", folder.display()))?
        .into_temp_path();
    let mut cc = Command::new(apt::tool(ctx, "cc", "gcc")?);
    cc.args(["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,noexecstack,--no-warn-rwx-segments"]);
    cc.args(flags).arg("-I").arg(&sources).arg("-Wl,-T").arg(sources.join(script));
    cc.args(contract().map(|(name, value)| format!("-D{name}={value:#x}")));
    ctx.run(cc.arg(sources.join(name).with_extension("S")).arg("-o").arg(&unfinished))?;
    unfinished.persist(&to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(to)
}

/// What the guests take from the machine contract.
fn contract() -> [(&'static str, u64); 21] {
    [
        ("BENCH", BENCH_PORT.into()),
        ("DEBUG_EXIT", ports::DEBUG_EXIT.into()),
        ("COM1", ports::COM1.into()),
        ("COM1_IRQ", ports::COM1_IRQ.into()),
        ("CMOS_INDEX", ports::CMOS_INDEX.into()),
        ("I8042_COMMAND", ports::I8042_COMMAND.into()),
        ("PVPANIC", ports::PVPANIC.into()),
        ("ACPI_SLEEP_CONTROL", ports::ACPI_SLEEP_CONTROL.into()),
        ("ACPI_SLEEP_ENABLE", ports::ACPI_SLEEP_ENABLE.into()),
        ("ACPI_S5", ports::ACPI_S5.into()),
        ("ACPI_PM1A_CONTROL", ports::ACPI_PM1A_CONTROL.into()),
        ("ACPI_PM1_SLEEP_ENABLE", ports::ACPI_PM1_SLEEP_ENABLE.into()),
        ("ACPI_RESET", ports::ACPI_RESET.into()),
        ("ACPI_RESET_VALUE", ports::ACPI_RESET_VALUE.into()),
        ("TIMELINE", ports::TIMELINE.into()),
        ("MARK_USER", Mark::USER.0.into()),
        ("EXIT_STATUS", ports::EXIT_STATUS.into()),
        ("IOAPIC", layout::IOAPIC.start),
        ("LAPIC", layout::LAPIC.start),
        ("PCI_ECAM", layout::PCI_ECAM.start),
        ("VIRTIO_MMIO", layout::VIRTIO_MMIO.start),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::Options;
    use goblin::elf::Elf;

    #[test]
    fn every_guest_has_its_entry_in_a_note() {
        let ctx = Ctx::new(&Options::default()).expect("context");
        let sources = ctx.root.join("tests/guests");
        let names: Vec<String> = (fs::read_dir(sources).expect("tests/guests"))
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".S")?.to_owned()))
            .collect();
        assert!(names.len() > 10, "only {names:?}");
        for name in names {
            let bytes = fs::read(build(&ctx, &name).expect("assembles")).expect("is there");
            let elf = Elf::parse(&bytes).expect("ELF");
            let notes: Vec<_> = elf.iter_note_headers(&bytes).expect("notes").flatten().collect();
            let [note] = &notes[..] else { panic!("{name}: {notes:?}") };
            assert_eq!(
                (note.name, note.n_type, note.desc),
                ("Xen", 18, &(elf.entry as u32).to_le_bytes()[..])
            );
            assert!(elf.program_headers.iter().any(|header| header.p_vaddr == layout::HIGH_RAM_START));
        }
    }
}
