//! Wall time of a request on this host: `tests/guests/virtio.S` asks an entropy device for 64 bytes, each time by a doorbell
//! and an interrupt, and marks when it begins and when it has all.

use std::process::Command;

use abi::timeline::Mark;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::probe::{self, Level};
use xtask::{built, guests, timeline};

use super::System;

/// As many requests as the guest does.
const REQUESTS: f64 = 500.0;
const RUNS: usize = 20;

/// Microseconds of a request.
#[derive(Debug, Serialize)]
pub(super) struct Times {
    transport: System,
    best: f64,
    median: f64,
}

/// Runs the guest on each transport, in turns; nothing where the host has no KVM.
pub(super) fn measure(ctx: &Ctx) -> Result<Vec<Times>> {
    if probe::probe(ctx)?.level == Level::None {
        eprintln!("no KVM on this host: no wall times");
        return Ok(Vec::new());
    }
    let _progress = ctx.step("Running a small guest on this host");
    let (jiffy, guest) = (built::JIFFY.path(ctx)?, guests::build(ctx, "virtio")?);
    let systems = [System::Mmio, System::Pci];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (system, times) in systems.iter().zip(&mut times) {
            let mut command = Command::new(&jiffy);
            command.args(["run", "--memory", "32M", "--rng", "--timeline", "json", "--kernel"]).arg(&guest);
            let output = command.args(["--transport", &system.to_string()]).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "the guest failed: {said}");
            let rows = timeline::read(&said).context("no timeline")?;
            let [begin, end] = [Mark::USER.0, Mark::USER.0 + 1].map(|code| timeline::mark(&rows, Mark(code)));
            times.push((end?.at_ns - begin?.at_ns) as f64 / 1e3 / REQUESTS);
        }
    }
    let summary = |(transport, mut times): (System, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        Times { transport, best: times[0], median: times[RUNS / 2] }
    };
    Ok(systems.into_iter().zip(times).map(summary).collect())
}

/// Prints them.
pub(super) fn print(all: &[Times]) {
    println!(
        "\nOn this host's KVM, wall time of a request for 64 random bytes, in microseconds (best, median of {RUNS})\n"
    );
    for Times { transport, best, median } in all {
        println!("{:<6}{best:>10.1}{median:>10.1}", transport.name());
    }
}
