//! Guests that do not end, or end otherwise than they should, for what the lab's emulator does to them: they are run again.

use agent::{Status, Step};
use anyhow::{Context, Result, bail};
use xtask::ctx::Ctx;
use xtask::lab::emulator::crash;
use xtask::lab::{Lab, StepReport};

/// How often steps that were stuck are done again.
pub(super) const REPEATS: usize = 6;

/// Does all jobs in a lab; those that get stuck or crash, and those that fail after them, again in another one. `step` says what a
/// job is, with what goes where it changes nothing but bytes; `take` is told how those that end have ended.
pub(super) fn until_all_end<J: Copy>(
    ctx: &Ctx,
    lab: &Lab,
    mut jobs: Vec<J>,
    step: impl Fn(&J, &str) -> Step,
    mut take: impl FnMut(J, &StepReport) -> Result<()>,
) -> Result<()> {
    let mut names = Vec::new();
    for repeat in 0..=REPEATS {
        let pad = "x".repeat(repeat);
        let steps: Vec<_> = jobs.iter().map(|job| step(job, &pad)).collect();
        let _progress = ctx.step(format!("Counting instructions in the nested lab: {} runs", jobs.len()));
        let report = lab.run(ctx, &steps)?;
        names.clear();
        let (mut stuck, mut held) = (Vec::new(), false);
        for (job, step) in jobs.into_iter().zip(&report.steps) {
            let crash = crash(step);
            if let Some(line) = &crash {
                eprintln!("{}: {line}", step.name);
            }
            if step.status == Status::TimedOut || crash.is_some() {
                held |= crash.is_none();
                names.push(step.name.clone());
                stuck.push(job);
                continue;
            }
            match take(job, step).with_context(|| step.name.clone()) {
                // What a stuck VM still holds, a lock or a tap, the next ones do not get.
                Err(_) if held => {
                    names.push(step.name.clone());
                    stuck.push(job);
                }
                result => result?,
            }
        }
        if stuck.is_empty() {
            return Ok(());
        }
        jobs = stuck;
    }
    bail!("always stuck, or crashed: {}", names.join(", "))
}
