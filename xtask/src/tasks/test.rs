//! `test`: the workspace's unit tests, and the suites that boot guests.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;
use xtask::lab::qemu;
use xtask::{apt, initramfs, skip};

use super::build;

/// Run the tests: units, and suites that boot guests
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run only the suite of this name, or else only tests whose names contain this
    filter: Option<String>,
    /// Fail if any test cannot be run here
    #[arg(long)]
    require: bool,
}

/// Builds and fetches what the suites need, runs the tests, and counts those that were run and that were not.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    build::all(ctx)?;
    build::agent(ctx)?;
    build::tools(ctx)?;
    build::unikernels(ctx)?;
    build::wire(ctx)?;
    build::pauser(ctx)?;
    qemu::several(ctx)?;
    let kernel = Kernel::debian(ctx)?;
    kernel.vmlinux(ctx)?;
    initramfs::busybox(ctx)?;
    // Where it cannot be had, one test says that it was skipped.
    let _ = apt::tool(ctx, "patch", "patch");
    println!("guest kernel: {} ({})", kernel.release, kernel.package.record.version);

    let place = tempfile::tempdir()?;
    let notes = place.path().join("skipped");
    let mut cargo = ctx.cargo();
    cargo.args(["test", "--no-fail-fast"]).env(skip::NOTES, &notes);
    if args.require {
        cargo.env(skip::REQUIRE, "1");
    }
    if let Some(filter) = &args.filter {
        let suite = ctx.root.join("tests/tests").join(filter);
        if suite.with_extension("rs").is_file() || suite.join("main.rs").is_file() {
            cargo.args(["--package", "tests", "--test", filter]);
        } else {
            cargo.arg(filter);
        }
    }
    let mut child =
        cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run cargo test")?;
    let mut count = Count::default();
    let mut failures = Failures::default();
    for line in BufReader::new(child.stdout.take().context("no output of cargo test")?).lines() {
        let line = line?;
        println!("{line}");
        count.line(&line);
        failures.line(&line);
    }
    let passed = child.wait()?.success();
    let skipped = skip::notes(&notes)?;
    for note in &skipped {
        println!("skipped: {note}");
    }
    // A test that finds that it cannot be run counts as passed to cargo.
    let run = count.passed.saturating_sub(skipped.len());
    if run + count.failed == 0 {
        println!("no test was run");
    }
    println!("{run} passed, {} failed, {} skipped", count.failed, skipped.len() + count.ignored);
    for line in failures.told {
        println!("{line}");
    }
    let good = passed && run > 0 && !(args.require && count.ignored > 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sums of cargo's "test result" lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Count {
    /// `test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.13s`
    fn line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']).map(str::trim) {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let sum = match what {
                "passed" => &mut self.passed,
                "failed" => &mut self.failed,
                "ignored" => &mut self.ignored,
                _ => continue,
            };
            *sum += number.parse::<usize>().unwrap_or_default();
        }
    }
}

/// What tests that failed said, which is shown once more at the end, where it is looked for.
#[derive(Debug, Default)]
struct Failures {
    told: Vec<String>,
    telling: bool,
}

impl Failures {
    fn line(&mut self, line: &str) {
        if line == "failures:" {
            self.telling = true;
        } else if line.starts_with("test result: ") {
            self.telling = false;
        } else if self.telling {
            self.told.push(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_failed_tests_said() {
        let mut failures = Failures::default();
        let output = "test a ... FAILED\n\nfailures:\n\n---- a ----\nno\n\nfailures:\n    a\n\ntest result: FAILED. 0 passed";
        output.lines().chain(["running 1 test"]).for_each(|line| failures.line(line));
        assert_eq!(failures.told.join("\n").trim(), "---- a ----\nno\n\n    a");
    }

    #[test]
    fn counts_results() {
        let mut count = Count::default();
        count.line(
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.13s",
        );
        count.line(
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1s",
        );
        count.line("7 passed; not a result");
        assert_eq!(count, Count { passed: 6, failed: 3, ignored: 1 });
    }
}
