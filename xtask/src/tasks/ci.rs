//! `ci`: all that a change has to pass, in the order in which it fails soonest.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xtask::ctx::{Ctx, show};

/// Check all that a change has to pass
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Each a command that anyone can run alone.
const STEPS: [&[&str]; 4] = [
    &["xtask", "tidy"],
    &["xtask", "test", "--require"],
    &["xtask", "fuzz"],
    &["xtask", "fuzz", "--planted"],
];

/// Runs the steps, each only when those before it passed, and says how long each took.
pub fn run(ctx: &Ctx, _: &Args) -> Result<ExitCode> {
    let mut took: Vec<(String, Duration)> = Vec::new();
    let mut passed = true;
    for step in STEPS {
        let mut command = ctx.cargo();
        command.args(step);
        let shown = format!("cargo {}", step.join(" "));
        println!("\n== {shown}");
        let start = Instant::now();
        passed = command.status().with_context(|| format!("cannot run {}", show(&command)))?.success();
        took.push((shown, start.elapsed()));
        if !passed {
            break;
        }
    }
    let all: Duration = took.iter().map(|(_, time)| *time).sum();
    took.push((if passed { "passed" } else { "FAILED" }.into(), all));
    println!();
    for (what, time) in took {
        println!("ci: {what:<32} {:>7.1} s", time.as_secs_f64());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
