//! Starts in the nested lab, in instructions: there, one of them is one virtual nanosecond.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::lab::{self, Lab, Speed, Way};

use super::programs::{Files, Program, Record};

const MIB: u64 = 128;
const PROGRAMS: [Program; 2] = [Program::Floor, Program::Jiffy];
/// How often each is started in one lab; the first finds cold caches.
const STARTS: usize = 4;
/// An exact run may stall, and does so again unless something changes.
const SEEDS: [u64; 3] = [1, 2, 3];

/// One program's starts, in millions of instructions: the least of each figure.
#[derive(Debug, Serialize)]
pub struct Start {
    pub program: Program,
    /// From exec to the guest's mark, waits included.
    pub mark: f64,
    /// Of these, what the program itself and the kernel on its behalf executed.
    pub busy: f64,
    /// What these were executed for, where the program says so.
    pub parts: Vec<(String, f64)>,
    /// From exec to the parent's knowing of the end, waits included.
    pub reaped: f64,
}

/// Starts each program a few times in one lab.
pub fn measure(ctx: &Ctx, files: &Files) -> Result<Vec<Start>> {
    let mut last = None;
    for seed in SEEDS {
        match attempt(ctx, files, seed) {
            Ok(starts) => return Ok(starts),
            Err(error) => last = Some(error.context(format!("with seed {seed}"))),
        }
    }
    match last {
        Some(error) => Err(error),
        None => bail!("no seeds"),
    }
}

fn attempt(ctx: &Ctx, files: &Files, seed: u64) -> Result<Vec<Start>> {
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed }));
    lab.file("stopwatch", &files.stopwatch)
        .file("floor", &files.floor)
        .file("jiffy", &files.jiffy)
        .file("mark", &files.mark);
    let inside = |name: &str| PathBuf::from(format!("{{{name}}}"));
    let there = Files {
        stopwatch: inside("stopwatch"),
        floor: inside("floor"),
        jiffy: inside("jiffy"),
        ..files.clone()
    };
    let plan: Vec<Program> = (0..STARTS).flat_map(|_| PROGRAMS).collect();
    let steps: Vec<_> = plan
        .iter()
        .map(|program| {
            let command = program.command(&there, "{mark}", MIB);
            lab::step(program.name(), std::iter::once("{stopwatch}".to_owned()).chain(command))
        })
        .collect();
    let report = lab.run(ctx, &steps)?;
    let mut starts: Vec<Start> = Vec::new();
    for (&program, step) in plan.iter().zip(&report.steps) {
        let said = || format!("{:?}: {}", step.status, String::from_utf8_lossy(&step.stderr));
        let record: Record = serde_json::from_slice(&step.stdout).with_context(said)?;
        let mark = program.mark(&record)?;
        let busy = mark.cpu.with_context(|| format!("{} does not say its CPU time", program.name()))?;
        let millions = |nanoseconds: i64| nanoseconds as f64 / 1e6;
        let start = Start {
            program,
            mark: millions(mark.at - record.start),
            busy: millions(busy),
            parts: mark.parts.into_iter().map(|(name, cpu)| (name, millions(cpu))).collect(),
            reaped: millions(record.reaped - record.start),
        };
        match starts.iter_mut().find(|s| s.program == program) {
            None => starts.push(start),
            Some(least) => {
                if start.busy < least.busy {
                    (least.busy, least.parts) = (start.busy, start.parts);
                }
                least.mark = least.mark.min(start.mark);
                least.reaped = least.reaped.min(start.reaped);
            }
        }
    }
    Ok(starts)
}
