//! The same way under `jiffy`, in the nested lab: what all levels execute from the reset vector to a payload's mark.
//!
//! The VMM's clock is read before the first entry into the guest, which itself takes as much as a firmware does. So a ROM
//! is started as well that marks at the reset vector, and its time is subtracted.

use std::fs;
use std::path::PathBuf;

use abi::ports;
use abi::timeline::Mark;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::lab::{self, Lab, Speed, Way};
use xtask::{built, guests, timeline};

use super::Firmware;

/// What it may take, in millions of instructions.
pub(super) const TARGET: f64 = 0.1;
/// The first start finds cold caches.
const STARTS: usize = 3;
/// An exact run may stall, and does so again unless something changes.
const SEEDS: [u64; 3] = [1, 2, 3];

/// The least of some starts, in millions of instructions.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Start {
    pub(super) firmware: Firmware,
    /// From the reset vector to the payload's mark.
    pub(super) minstr: f64,
    /// From the first `KVM_RUN` to the reset vector.
    pub(super) entry_minstr: f64,
}

/// A ROM whose first instructions mark and power off.
fn nothing() -> Vec<u8> {
    let mut rom = vec![0xf4; 64 << 10];
    let power_off = ports::ACPI_S5 << 2 | ports::ACPI_SLEEP_ENABLE;
    let code =
        [(ports::TIMELINE, Mark::USER.0), (ports::ACPI_SLEEP_CONTROL, power_off)].map(|(port, value)| {
            let [low, high] = port.to_le_bytes();
            // mov $port, %dx; mov $value, %al; out %al, %dx
            [0xba, low, high, 0xb0, value, 0xee]
        });
    let reset_vector = rom.len() - 16;
    rom[reset_vector..][..12].copy_from_slice(code.as_flattened());
    rom
}

/// Starts a PVH guest by each firmware.
pub(super) fn measure(ctx: &Ctx, roms: &[(Firmware, PathBuf)]) -> Result<Vec<Start>> {
    let mut last = None;
    for seed in SEEDS {
        match attempt(ctx, roms, seed) {
            Ok(starts) => return Ok(starts),
            Err(error) => last = Some(error.context(format!("with seed {seed}"))),
        }
    }
    last.map_or_else(|| bail!("no seeds"), Err)
}

fn attempt(ctx: &Ctx, roms: &[(Firmware, PathBuf)], seed: u64) -> Result<Vec<Start>> {
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed }));
    lab.file("jiffy", &built::JIFFY.path(ctx)?).file("mark", &guests::build(ctx, "mark")?);
    let place = tempfile::tempdir()?;
    let nothing_rom = place.path().join("rom");
    fs::write(&nothing_rom, nothing())?;
    let mut steps = Vec::new();
    let own = roms.iter().map(|(firmware, rom)| (format!("rom-{firmware:?}").to_lowercase(), rom));
    for (name, rom) in own.chain([("rom-nothing".to_owned(), &nothing_rom)]) {
        lab.file(&name, rom);
        let line =
            format!("{{jiffy}} run --firmware {{{name}}} --kernel {{mark}} --memory 128M --timeline json");
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        steps.extend((0..STARTS).map(|_| lab::step(&name, words.clone())));
    }
    let report = lab.run(ctx, &steps)?;
    let least = |index: usize| {
        let mut least = u64::MAX;
        for step in &report.steps[index * STARTS..(index + 1) * STARTS] {
            let rows = timeline::read(&String::from_utf8_lossy(&step.stderr));
            let rows = rows.with_context(|| format!("{}: {:?}", step.name, step.status))?;
            let took = timeline::mark(&rows, Mark::USER)?.at_ns - timeline::first_run(&rows)?.at_ns;
            least = least.min(took);
        }
        anyhow::Ok(least)
    };
    let entry = least(roms.len())?;
    let start = |(index, (firmware, _)): (usize, &(Firmware, PathBuf))| {
        let minstr = least(index)?.saturating_sub(entry) as f64 / 1e6;
        Ok(Start { firmware: *firmware, minstr, entry_minstr: entry as f64 / 1e6 })
    };
    roms.iter().enumerate().map(start).collect()
}
