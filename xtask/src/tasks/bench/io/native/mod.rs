//! Wall time of a request on this host: small guests in assembly (`tests/guests`) ring for each and sleep until they are
//! interrupted, check what they got, and mark where a loop of requests begins and ends. One whose answer is wrong fails.

mod loads;
mod programs;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::probe::{self, Level};

use super::System;
use loads::{LOADS, Load};
use programs::Programs;

/// Each guest is run so often on each system, in turns.
const RUNS: usize = 20;
/// The systems, in the order of columns.
const SYSTEMS: [System; 4] = [System::Limit, System::Qemu, System::Mmio, System::Pci];

/// Microseconds of a request.
#[derive(Debug, Serialize)]
pub(super) struct Times {
    request: &'static str,
    system: System,
    best: f64,
    median: f64,
}

/// Runs the guests on those of `systems` that there are; nothing where the host has no KVM.
pub(super) fn measure(ctx: &Ctx, systems: &[System]) -> Result<Vec<Times>> {
    if probe::probe(ctx)?.level == Level::None {
        eprintln!("no KVM on this host: no wall times");
        return Ok(Vec::new());
    }
    let _progress = ctx.step("Running small guests on this host");
    let programs = Programs::find(ctx)?;
    let systems: Vec<_> = SYSTEMS.into_iter().filter(|system| systems.contains(system)).collect();
    let mut all = Vec::new();
    for load in &LOADS {
        all.extend(times(ctx, &programs, load, &systems).with_context(|| load.guest)?);
    }
    Ok(all)
}

/// The times of a guest's requests.
fn times(ctx: &Ctx, programs: &Programs, load: &'static Load, systems: &[System]) -> Result<Vec<Times>> {
    // In memory, where there is such a file system: the host's disk is no part of a request.
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    if let Some(peer) = load.peer {
        let listener = UnixListener::bind(place.path().join(peer))?;
        // Ends with this program.
        thread::spawn(move || loads::echo(&listener));
    }
    let systems: Vec<_> = systems.iter().copied().filter(|&system| load.has(system)).collect();
    let mut runs = vec![Vec::new(); systems.len()];
    for _ in 0..RUNS {
        for (&system, runs) in systems.iter().zip(&mut runs) {
            (load.prepare)(place.path())?;
            runs.push(match system {
                System::Limit => limit(load, place.path())?,
                system => programs.run(ctx, load, system, place.path()).with_context(|| system.name())?,
            });
        }
    }
    let summary = |(at, &(request, count)): (usize, &(&'static str, u32))| {
        let of = |(&system, runs): (&System, &Vec<Vec<f64>>)| {
            let mut all: Vec<f64> = runs.iter().map(|run| run[at] / f64::from(count)).collect();
            all.sort_by(f64::total_cmp);
            Times { request, system, best: all[0], median: all[RUNS / 2] }
        };
        systems.iter().zip(&runs).map(of).collect::<Vec<_>>()
    };
    Ok(load.requests.iter().enumerate().flat_map(summary).collect())
}

/// Microseconds that the loops of requests take without a VM.
fn limit(load: &Load, place: &Path) -> Result<Vec<f64>> {
    let mut operation = (load.limit)(place)?;
    let mut all = Vec::new();
    for (at, &(_, count)) in load.requests.iter().enumerate() {
        let begin = Instant::now();
        for _ in 0..count {
            operation(at)?;
        }
        all.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    Ok(all)
}

/// Prints them.
pub(super) fn print(all: &[Times]) {
    println!("\nOn this host's KVM, wall time of a request in microseconds, best (median) of {RUNS}\n");
    let head: String = SYSTEMS.iter().map(|system| format!("{:>18}", system.name())).collect();
    println!("{:<34}{head}", "");
    for of_request in all.chunk_by(|one, next| one.request == next.request) {
        let cell = |system| {
            let found = of_request.iter().find(|times| times.system == system);
            found.map_or_else(String::new, |Times { best, median, .. }| format!("{best:.1} ({median:.1})"))
        };
        let cells: String = SYSTEMS.iter().map(|&system| format!("{:>18}", cell(system))).collect();
        println!("{:<34}{cells}", of_request[0].request);
    }
}
