//! Starts on this host's KVM, in wall time.

use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::ctx::{Ctx, Step};

use super::programs::{Files, Program, Record};

/// Sizes of guest RAM, in MiB.
pub const SIZES: [u64; 3] = [128, 1024, 4096];
const PROGRAMS: [Program; 4] = [Program::FloorC, Program::Floor, Program::Jiffy, Program::Qemu];

/// All runs of one program with one size of RAM.
#[derive(Debug, Serialize)]
pub struct Series {
    pub program: Program,
    pub memory_mib: u64,
    /// From exec to the guest's mark, in ms.
    pub mark_ms: Times,
    /// From exec to the parent's knowing of the end, in ms.
    pub reaped_ms: Times,
}

/// Times of like runs.
#[derive(Debug, Default, PartialEq)]
pub struct Times(Vec<f64>);

impl Times {
    fn push(&mut self, nanoseconds: i64) {
        let milliseconds = nanoseconds as f64 / 1e6;
        self.0.insert(self.0.partition_point(|&t| t < milliseconds), milliseconds);
    }

    /// The shortest: what is left when nothing else disturbs.
    pub fn best(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl Serialize for Times {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Summary {
            best: f64,
            median: f64,
            runs: usize,
        }
        Summary { best: self.best(), median: self.median(), runs: self.0.len() }.serialize(serializer)
    }
}

/// What was measured, and why something was not.
#[derive(Debug, Serialize)]
pub struct Native {
    pub series: Vec<Series>,
    pub left_out: Vec<String>,
}

/// Runs everything `rounds` times, interleaved, so that what disturbs the host disturbs all alike.
pub fn measure(ctx: &Ctx, files: &Files, rounds: u32, step: &Step) -> Result<Native> {
    if let Err(e) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Ok(Native {
            series: Vec::new(),
            left_out: vec![format!("all native starts: /dev/kvm: {e}")],
        });
    }
    let guest = files.mark.to_string_lossy();
    let mut left_out = Vec::new();
    let mut programs = PROGRAMS.to_vec();
    if let Err(e) = once(ctx, files, Program::Qemu, &guest, SIZES[0]) {
        programs.pop();
        left_out.push(format!("QEMU does not run on this host's KVM: {e:#}"));
    }
    let mut series: Vec<Series> = SIZES
        .iter()
        .flat_map(|&memory_mib| programs.iter().map(move |&program| (memory_mib, program)))
        .map(|(memory_mib, program)| Series {
            program,
            memory_mib,
            mark_ms: Times::default(),
            reaped_ms: Times::default(),
        })
        .collect();
    for round in 1..=rounds {
        step.message(format!("Starting VMs natively, round {round} of {rounds}"));
        for Series { program, memory_mib, mark_ms, reaped_ms } in &mut series {
            let record = once(ctx, files, *program, &guest, *memory_mib)?;
            mark_ms.push(program.mark(&record)?.at - record.start);
            reaped_ms.push(record.reaped - record.start);
        }
    }
    Ok(Native { series, left_out })
}

fn once(ctx: &Ctx, files: &Files, program: Program, guest: &str, mib: u64) -> Result<Record> {
    let said = ctx.read(Command::new(&files.stopwatch).args(program.command(files, guest, mib)))?;
    let record: Record = serde_json::from_str(&said).context("stopwatch's record")?;
    program.mark(&record)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_know_their_best_and_their_middle() {
        let mut times = Times::default();
        for t in [5_000_000, 1_000_000, 3_000_000, 9_000_000, 2_000_000] {
            times.push(t);
        }
        assert_eq!((times.best(), times.median()), (1.0, 3.0));
        assert!(Times::default().best().is_nan());
    }
}
