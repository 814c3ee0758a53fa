//! The table.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use goblin::elf::Elf;
use xtask::built;
use xtask::ctx::Ctx;

use super::{Args, Firmware, Row, nested};

/// Bytes of a ROM.
pub(super) struct Size {
    firmware: Firmware,
    rom: u64,
    /// Code and data that are not padding, where the ROM's own ELF file tells.
    used: Option<u64>,
}

/// Everything, for people.
pub(super) fn text(rows: &[Row], nested: &[nested::Start], sizes: &[Size]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, rows, nested, sizes);
    text
}

fn write(to: &mut String, rows: &[Row], nested: &[nested::Start], sizes: &[Size]) -> std::fmt::Result {
    writeln!(
        to,
        "QEMU TCG, -icount: instructions from reset to the payload's first; port and MMIO accesses"
    )?;
    writeln!(to, "before it, and those to BARs and bridges\n")?;
    write!(to, "{:<17} {:<9} {:<5}", "machine", "payload", "BARs")?;
    for (firmware, _) in &rows[0].found {
        write!(to, " {:>25}", format!("{firmware:?}").to_lowercase())?;
    }
    writeln!(to, " {:>11}", "jiffy ≤")?;
    for row in rows {
        let (payload, bars) = (format!("{:?}", row.payload), if row.bars { "some" } else { "" });
        write!(to, "{:<17} {payload:<9} {bars:<5}", row.machine)?;
        for (_, way) in &row.found {
            let cell = way.map_or_else(
                || "not reached".to_owned(),
                |way| {
                    let accesses = format!("{} + {}", way.accesses.accesses, way.accesses.bar_accesses);
                    format!("{:>11} {accesses:>13}", way.instructions)
                },
            );
            write!(to, " {cell:>25}")?;
        }
        let ours = row.found.iter().find(|(firmware, _)| *firmware == Firmware::Jiffy);
        let verdict = match ours {
            Some((_, Some(way))) if row.target.is_met(way) => "met",
            Some(_) => "MISSED",
            None => "",
        };
        let target = format!("{} {}", row.target.instructions, row.target.accesses);
        writeln!(to, " {target:>11} {verdict}")?;
    }
    if let Some(start) = nested.first() {
        writeln!(
            to,
            "\nUnder jiffy, nested: millions of instructions from the reset vector to a PVH payload (the first entry into\n\
             the guest took {:.3} before)\n",
            start.entry_minstr
        )?;
    }
    for nested::Start { firmware, minstr, .. } in nested {
        let verdict = match firmware {
            Firmware::Jiffy if *minstr <= nested::TARGET => format!("jiffy ≤ {} met", nested::TARGET),
            Firmware::Jiffy => format!("jiffy ≤ {} MISSED", nested::TARGET),
            _ => String::new(),
        };
        writeln!(to, "{:<10} {minstr:>8.3} {verdict}", format!("{firmware:?}").to_lowercase())?;
    }
    writeln!(to)?;
    for Size { firmware, rom, used } in sizes {
        let used = used.map_or(String::new(), |used| format!(", {used} of them code and data"));
        writeln!(to, "{:<10} ROM of {rom} bytes{used}", format!("{firmware:?}").to_lowercase())?;
    }
    Ok(())
}

/// The sizes of the firmwares' ROMs, as microvm takes them.
pub(super) fn sizes(ctx: &Ctx, args: &Args) -> Result<Vec<Size>> {
    let size = |&firmware: &Firmware| {
        let rom = fs::metadata(firmware.rom(ctx, args, "microvm")?)?.len();
        let own = firmware == Firmware::Jiffy && args.rom.is_none();
        Ok(Size { firmware, rom, used: if own { Some(used(ctx)?) } else { None } })
    };
    args.firmware.iter().map(size).collect()
}

/// Bytes of the sections that our ROM is linked from.
fn used(ctx: &Ctx) -> Result<u64> {
    let path = built::firmware_elf(ctx);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let elf = Elf::parse(&bytes)?;
    let sections = elf.section_headers.iter();
    let in_rom = |it: &&goblin::elf::SectionHeader| {
        it.is_alloc() && it.sh_type == goblin::elf::section_header::SHT_PROGBITS
    };
    Ok(sections.filter(in_rom).map(|it| it.sh_size).sum())
}
