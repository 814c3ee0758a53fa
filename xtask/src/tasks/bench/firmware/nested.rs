//! The same way under `jiffy`, in the nested lab: what all levels execute from the first entry into the guest, which is
//! at the reset vector, to a payload's mark.

use std::path::PathBuf;

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

/// The least of some starts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Start {
    pub(super) firmware: Firmware,
    /// Millions of instructions.
    pub(super) minstr: f64,
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
    let mut steps = Vec::new();
    for (firmware, rom) in roms {
        let name = format!("rom-{firmware:?}").to_lowercase();
        lab.file(&name, rom);
        let line =
            format!("{{jiffy}} run --firmware {{{name}}} --kernel {{mark}} --memory 128M --timeline json");
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        steps.extend((0..STARTS).map(|_| lab::step(&name, words.clone())));
    }
    let report = lab.run(ctx, &steps)?;
    let least = |(index, (firmware, _)): (usize, &(Firmware, PathBuf))| {
        let mut minstr = f64::INFINITY;
        for step in &report.steps[index * STARTS..(index + 1) * STARTS] {
            let rows = timeline::read(&String::from_utf8_lossy(&step.stderr));
            let rows = rows.with_context(|| format!("{}: {:?}", step.name, step.status))?;
            let took = timeline::mark(&rows, Mark::USER)?.at_ns - timeline::first_run(&rows)?.at_ns;
            minstr = minstr.min(took as f64 / 1e6);
        }
        Ok(Start { firmware: *firmware, minstr })
    };
    roms.iter().enumerate().map(least).collect()
}
