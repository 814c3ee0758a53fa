//! `ci`: all that a change has to pass.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{self, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xtask::ctx::{Ctx, show};

/// Check all that a change has to pass
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Two rows of steps that go on side by side, each step a command that anyone can run alone. In a row they are in the
/// order in which a change fails soonest.
///
/// Functional labs fall behind, and stall, where they have to share the processors: their row goes first. Nothing in
/// the other one depends on how fast it is, and it has folders of its own. The guard needs the kernel that the other row
/// builds, and waits for it; behind it are the tests of that kernel, which the suite leaves out as long as it is not there.
const ROWS: [(Priority, &[&[&str]]); 2] = [
    (
        Priority::First,
        &[
            &["tidy"],
            &["test", "--require"],
            &["guard"],
            &["test", "--require", "kernels"],
            &["guard", "--planted"],
        ],
    ),
    (Priority::Behind, &[&["kernel", "build"], &["fuzz"], &["fuzz", "--planted"]]),
];

/// Who gets the processors when both rows want them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Priority {
    First,
    Behind,
}

/// How a step went.
struct Ended {
    shown: String,
    passed: bool,
    took: Duration,
}

/// Runs the rows, each step only when none has failed before, and says how long each took.
pub fn run(ctx: &Ctx, _: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let logs = ctx.target.join("ci");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    println!("ci: what a step says is shown when it has ended; until then it is in {}", logs.display());
    let failed = AtomicBool::new(false);
    let ended: Vec<Ended> = thread::scope(|scope| {
        let rows = ROWS.map(|(priority, steps)| {
            let (failed, logs) = (&failed, &logs);
            scope.spawn(move || row(priority, steps, logs, failed))
        });
        // A row that panicked has said so.
        rows.into_iter().map(|row| row.join().unwrap_or_else(|_| Ok(Vec::new()))).collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect();
    let count: usize = ROWS.iter().map(|(_, steps)| steps.len()).sum();
    let passed = ended.len() == count && ended.iter().all(|step| step.passed);
    println!();
    for Ended { shown, passed, took } in &ended {
        println!("ci: {shown:<32} {:>7.1} s{}", took.as_secs_f64(), if *passed { "" } else { "  FAILED" });
    }
    let verdict = if passed { "passed" } else { "FAILED" };
    println!("ci: {verdict:<32} {:>7.1} s", start.elapsed().as_secs_f64());
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the steps of a row up to the first that fails, or to a failure in the other row.
fn row(priority: Priority, steps: &[&[&str]], logs: &Path, failed: &AtomicBool) -> Result<Vec<Ended>> {
    let mut all = Vec::new();
    for step in steps {
        if failed.load(Ordering::Relaxed) {
            break;
        }
        let ended = one(priority, step, logs);
        if !ended.as_ref().is_ok_and(|ended| ended.passed) {
            failed.store(true, Ordering::Relaxed);
        }
        all.push(ended?);
    }
    Ok(all)
}

/// Runs a step, and shows what it said in one piece.
fn one(priority: Priority, step: &[&str], logs: &Path) -> Result<Ended> {
    let shown = format!("cargo xtask {}", step.join(" "));
    let path = logs.join(format!("{}.log", step.join(" ").replace([' ', '-'], "")));
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    // This program itself: cargo would wait for whoever builds in the same folder. Not by its name, under which a step that
    // builds leaves another one.
    let xtask = format!("/proc/{}/exe", process::id());
    let mut command = match priority {
        Priority::First => Command::new(xtask),
        Priority::Behind => {
            let mut nice = Command::new("nice");
            nice.args(["-n", "10"]).arg(xtask);
            nice
        }
    };
    command.args(step).stdout(log.try_clone()?).stderr(log);
    println!("ci: {shown} …");
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {}", show(&command)))?;
    let took = start.elapsed();
    let said = fs::read(&path)?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "\n== {shown} ({status}, {:.1} s)", took.as_secs_f64())?;
    stdout.write_all(&said)?;
    stdout.flush()?;
    Ok(Ended { shown, passed: status.success(), took })
}
