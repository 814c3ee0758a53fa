//! The tiny guests in `tests/guests`, for suites and benches.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use abi::{layout, ports, timeline::Mark};
use anyhow::{Context, Result};

use crate::apt;
use crate::ctx::Ctx;

/// Assembles `tests/guests/NAME.S` into an ELF file with a PVH entry that loads at 1 MiB, and returns where that is.
/// Several may do so at once.
pub fn build(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    let sources = ctx.root.join("tests/guests");
    let folder = ctx.target.join("guests");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Two builds of one guest make the same bytes; either may be the last to put them in place.
    let unfinished = tempfile::NamedTempFile::new_in(&folder)
        .with_context(|| format!("cannot create a file in {}", folder.display()))?
        .into_temp_path();
    let mut cc = Command::new(apt::tool(ctx, "cc", "gcc")?);
    cc.args(["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,noexecstack,--no-warn-rwx-segments"]);
    cc.arg("-Wl,-T").arg(sources.join("guest.ld"));
    cc.args(contract().map(|(name, value)| format!("-D{name}={value:#x}")));
    ctx.run(cc.arg(sources.join(name).with_extension("S")).arg("-o").arg(&unfinished))?;
    let to = folder.join(name);
    unfinished.persist(&to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(to)
}

/// What the guests take from the machine contract.
fn contract() -> [(&'static str, u64); 17] {
    [
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
