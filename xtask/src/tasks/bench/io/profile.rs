//! Which functions execute a load's instructions: all of it with its warm-up, from init's start of it to its end.

use abi::timeline::Mark;
use anyhow::Result;
use xtask::ctx::Ctx;
use xtask::lab;
use xtask::profile::{self, Programs, Start, Symbols};
use xtask::tuned::{Recipe, Variant};

use super::{Args, Job, words};
use crate::tasks::profile::report::{self, Tables};

/// Does jiffy's jobs once under the profiler, and prints a table for each.
pub(super) fn print(ctx: &Ctx, args: &Args, jobs: &[Job], tables: &Tables) -> Result<()> {
    let _progress = ctx.step("Counting what each function executes in the nested lab");
    let place = tempfile::tempdir()?;
    let lab = super::lab(ctx, args, place.path())?;
    let programs = Programs::built(ctx)?;
    let kernel = Symbols::of(&Recipe::read(ctx, Variant::Fast)?.build(ctx)?.vmlinux())?;
    let start = |job: &Job, pad: &str| {
        let before = format!("{}\nexec \"$@\" </dev/null", job.part.before);
        let shell = ["/bin/sh", "-c", &before, "sh"].map(str::to_owned).into_iter();
        let timeline = ["--timeline", "json", "--timeline-origin", "{origin}"].map(str::to_owned);
        let name = format!("{} {} {}", job.part.name, job.case, job.system);
        let mut step = lab::step(&name, shell.chain(words(args, job, pad)).chain(timeline));
        step.deadline_ms = super::DEADLINE_MS;
        Start { step, kernel: Some(&kernel) }
    };
    // Each in a lab of its own, so that one that gets stuck is done again alone.
    let profiled = |job: &Job| {
        profile::first_to_end("try", 0..=super::repeat::REPEATS, |&repeat| {
            profile::run(ctx, &lab, &[start(job, &"x".repeat(repeat))], &programs)
        })
    };
    for job in jobs.iter().filter(|job| job.system.is_jiffy()) {
        let (_, _, profiles) = profiled(job)?;
        for mut profile in profiles {
            let is_load = |phase: &str| Some(phase) == Mark::WORKLOAD_END.name();
            profile.phases.retain(|phase| is_load(&phase.name));
            profile.exits.retain(|exit| is_load(&exit.phase));
            println!("\n{}\n\n{}", profile.name, report::text(&profile, tables));
        }
    }
    Ok(())
}
