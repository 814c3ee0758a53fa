//! `ci`: all that a change has to pass.

use std::fs::{self, File};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::{self, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xtask::ctx::{Ctx, show};

use crate::printing;

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
#[derive(Debug)]
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
            scope.spawn(move || row(steps, failed, |step| one(priority, step, logs)))
        });
        rows.into_iter()
            .map(|row| row.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
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

/// Runs the steps of a row by `one`, up to the first that fails, or to a failure in the other row.
fn row(steps: &[&[&str]], failed: &AtomicBool, one: impl Fn(&[&str]) -> Result<Ended>) -> Result<Vec<Ended>> {
    let mut all = Vec::new();
    for step in steps {
        if failed.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        let ended = panic::catch_unwind(AssertUnwindSafe(|| one(step)));
        if !matches!(&ended, Ok(Ok(ended)) if ended.passed) {
            failed.store(true, Ordering::Relaxed);
        }
        all.push(match ended {
            Ok(ended) => ended.with_context(|| shown(step))?,
            Err(panic) if printing::failure(&*panic).is_some() => panic::resume_unwind(panic),
            // It has said why.
            Err(_) => Ended { shown: shown(step), passed: false, took: start.elapsed() },
        });
    }
    Ok(all)
}

/// A step as one would type it.
fn shown(step: &[&str]) -> String {
    format!("cargo xtask {}", step.join(" "))
}

/// Runs a step, and shows what it said in one piece.
fn one(priority: Priority, step: &[&str], logs: &Path) -> Result<Ended> {
    let shown = shown(step);
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
    let (said, seconds) = (String::from_utf8_lossy(&said), took.as_secs_f64());
    println!("\n== {shown} ({status}, {seconds:.1} s)\n{}", said.trim_end());
    Ok(Ended { shown, passed: status.success(), took })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [&[&str]; 3] = [&["tidy"], &["test", "--require"], &["guard"]];

    fn ended(step: &[&str], passed: bool) -> Result<Ended> {
        Ok(Ended { shown: shown(step), passed, took: Duration::ZERO })
    }

    #[test]
    fn a_step_that_panics_has_failed_and_is_named() {
        let failed = AtomicBool::new(false);
        let of = |ended: &Ended| (ended.shown.clone(), ended.passed);
        let all = row(&STEPS, &failed, |step| match step {
            ["test", ..] => panic!("as planned"),
            _ => ended(step, true),
        });
        let all: Vec<_> = all.unwrap().iter().map(of).collect();
        let expected = [("cargo xtask tidy", true), ("cargo xtask test --require", false)];
        assert_eq!(all, expected.map(|(shown, passed)| (shown.to_owned(), passed)));
        assert!(failed.load(Ordering::Relaxed), "the other row goes on");
        assert!(row(&STEPS, &failed, |step| ended(step, true)).unwrap().is_empty());
    }

    #[test]
    fn a_step_that_cannot_be_run_is_named_and_ends_the_rows() {
        let failed = AtomicBool::new(false);
        let error = row(&STEPS, &failed, |_| anyhow::bail!("no log")).unwrap_err();
        assert_eq!(format!("{error:#}"), "cargo xtask tidy: no log");
        assert!(failed.load(Ordering::Relaxed));
    }

    #[test]
    fn what_cannot_be_printed_ends_all_of_it() {
        let failed = AtomicBool::new(false);
        let why = String::from("Broken pipe");
        let printing = || row(&STEPS, &failed, |_| panic!("failed printing to stdout: {why}"));
        let panic = panic::catch_unwind(AssertUnwindSafe(printing)).err().unwrap();
        assert_eq!(printing::failure(&*panic), Some(printing::Failure::ReaderGone));
        assert!(failed.load(Ordering::Relaxed));
    }
}
