//! The same way under `jiffy`, in the nested lab: what all levels execute from the first entry into the guest, which is
//! at the reset vector, to a payload's mark.

use std::path::PathBuf;

use abi::timeline::Mark;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use xtask::ctx::Ctx;
use xtask::lab::{self, Lab, Speed, Way};
use xtask::{built, guests};

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

#[derive(Deserialize)]
struct Timeline {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    event: String,
    at_ns: u64,
    code: Option<u8>,
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
            let said = String::from_utf8_lossy(&step.stderr);
            let took = took(&said).with_context(|| format!("{}: {:?}: {said}", step.name, step.status))?;
            minstr = minstr.min(took as f64 / 1e6);
        }
        Ok(Start { firmware: *firmware, minstr })
    };
    roms.iter().enumerate().map(least).collect()
}

/// From the first entry to the payload's mark.
fn took(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.starts_with('{'))?;
    let Timeline { rows } = serde_json::from_str(line).ok()?;
    let entry = rows.iter().find(|row| row.event == "first-run")?.at_ns;
    let mark = rows.iter().find(|row| row.event == "mark" && row.code == Some(Mark::USER.0))?;
    mark.at_ns.checked_sub(entry)
}

#[cfg(test)]
mod tests {
    #[test]
    fn from_entry_to_the_payloads_own_mark() {
        let rows = r#"{"rows":[{"event":"first-run","at_ns":5},{"event":"mark","at_ns":7,"code":1},
            {"event":"mark","at_ns":25,"code":128}]}"#
            .replace('\n', "");
        assert_eq!(super::took(&rows), Some(20));
        assert_eq!(super::took(&rows.replace("128", "129")), None);
    }
}
