//! `fuzz`: feeds the parsers what coverage guides it to, each target a fixed number of times from a fixed seed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{MetadataCommand, TargetKind};
use xtask::ctx::Ctx;

/// Fuzz the parsers of what guests and files control
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The one target to run; all of them by default
    target: Option<String>,
    /// Executions of each target; those that make system calls get a twentieth
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// Build the targets that have a planted bug with it, and require that each bug is found
    #[arg(long, conflicts_with = "keep")]
    planted: bool,
    /// Add inputs that reach new code to the corpus in the tree
    #[arg(long)]
    keep: bool,
}

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What makes LLVM count edges and comparisons for libFuzzer: a stable compiler's flags, without a sanitizer.
const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Comparisons are told of where a target asks for it.
    "-Cllvm-args=-sanitizer-coverage-gated-trace-callbacks",
    // Folded branches are edges that nobody counts.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];
/// Seconds that one target may take for all of its executions, and for one.
const DEADLINE: u32 = 900;
const DEADLINE_EACH: u32 = 10;

/// Targets that make system calls in each execution, and how many times fewer of them they get.
const SLOW: [(&str, u64); 1] = [("qcow2", 20)];

/// Targets that take longest, which begin first: none of them is to run alone in the end.
const LONGEST: [&str; 7] = ["net", "console", "vsock", "block", "virtio", "pmem", "config"];

/// How often a target is executed.
fn runs(args: &Args, target: &str) -> u64 {
    let slow = SLOW.iter().find(|(name, _)| *name == target);
    args.runs / slow.map_or(1, |(_, fewer)| *fewer)
}

/// Builds the targets and runs them, as many at a time as there are CPUs.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    let targets = targets(ctx, args)?;
    let step = ctx.step("Building fuzz targets");
    build(ctx, args)?;
    step.message(format!("Fuzzing {} targets, {} runs each", targets.len(), args.runs));
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match fuzz(ctx, args, target) {
                        Ok(line) => step.line(&format!("fuzz: {target:<20} {line}")),
                        Err(error) => {
                            step.line(&format!("fuzz: {target:<20} FAILED: {error:#}"));
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    drop(step);
    println!("fuzz: {} targets passed, {failed} failed", targets.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Names of the targets to run: the binaries of the package, or those with a planted bug.
fn targets(ctx: &Ctx, args: &Args) -> Result<Vec<String>> {
    let metadata =
        MetadataCommand::new().current_dir(&ctx.root).no_deps().exec().context("cargo metadata")?;
    let package = metadata.packages.iter().find(|p| p.name == "fuzz").context("no package `fuzz`")?;
    let all: Vec<_> = package.targets.iter().filter(|t| t.kind.contains(&TargetKind::Bin)).collect();
    let wanted = all.iter().filter(|t| args.target.as_ref().is_none_or(|name| *name == t.name));
    let mut names = Vec::new();
    for target in wanted {
        let source = fs::read_to_string(&target.src_path).with_context(|| target.src_path.to_string())?;
        if !args.planted || source.contains(r#"feature = "planted""#) {
            names.push(target.name.clone());
        }
    }
    if names.is_empty() {
        let known: Vec<_> = all.iter().map(|t| t.name.as_str()).collect();
        bail!("no such target; there are: {}", known.join(", "));
    }
    names.sort_by_key(|name| LONGEST.iter().position(|longest| longest == name).unwrap_or(LONGEST.len()));
    Ok(names)
}

fn build(ctx: &Ctx, args: &Args) -> Result<()> {
    let mut cargo = ctx.cargo();
    cargo.args(["build", "-p", "fuzz", "--bins", "--profile", "fuzz", "--target", TARGET]);
    cargo.arg("--target-dir").arg(folder(ctx));
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", FLAGS.join(" "));
    cargo.args(["--features", if args.planted { "engine,planted" } else { "engine" }]);
    ctx.run(&mut cargo)
}

/// Flags of their own, so a folder of their own.
fn folder(ctx: &Ctx) -> PathBuf {
    ctx.target.join("fuzz")
}

/// Runs one target and returns a line on how it went.
fn fuzz(ctx: &Ctx, args: &Args, target: &str) -> Result<String> {
    let seeds = ctx.root.join("tests/fuzz/corpus").join(target);
    ensure!(seeds.is_dir(), "no seeds: put small valid inputs into {}", seeds.display());
    // What is found goes into a folder that starts empty, so that two runs do the same.
    let found = folder(ctx).join("found").join(target);
    let artifacts = folder(ctx).join("artifacts").join(target);
    for fresh in [&found, &artifacts] {
        if fresh.exists() {
            fs::remove_dir_all(fresh)?;
        }
        fs::create_dir_all(fresh)?;
    }
    let program = folder(ctx).join(TARGET).join("fuzz").join(target);
    let mut command = Command::new(&program);
    command
        .arg(format!("-runs={}", runs(args, target)))
        .arg(format!("-max_len={}", largest(&seeds)?.max(4096)))
        .arg(format!("-max_total_time={DEADLINE}"))
        .arg(format!("-timeout={DEADLINE_EACH}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-seed=1", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .args([&found, &seeds])
        .stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    let report =
        Report::read(&said).with_context(|| format!("no report of libFuzzer in:\n{}", last(&said)))?;
    if args.planted {
        ensure!(!output.status.success(), "the planted bug was not found in {} runs", report.runs);
        ensure!(said.contains("planted"), "something else than the planted bug was found:\n{}", last(&said));
        return Ok(format!("planted bug found after {} runs", report.runs));
    }
    if !output.status.success() {
        let again = format!("{} {}/*", program.display(), artifacts.display());
        bail!("{}\n{}\nrun it again: {again}", output.status, last(&said));
    }
    let asked = runs(args, target);
    ensure!(report.runs >= asked, "only {} of {asked} runs in {DEADLINE} s", report.runs);
    if args.keep {
        ctx.run(Command::new(&program).arg("-merge=1").args([&seeds, &found]))?;
    }
    // libFuzzer's own figure is in whole seconds.
    let per_second = report.runs as f64 / took.as_secs_f64();
    Ok(format!("{report}, {per_second:.0} a second"))
}

/// Bytes of the largest file in a folder.
fn largest(folder: &Path) -> Result<u64> {
    let mut largest = 0;
    for entry in fs::read_dir(folder)? {
        largest = largest.max(entry?.metadata()?.len());
    }
    Ok(largest)
}

/// The last lines of what a program said.
fn last(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// What libFuzzer says of a run.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    runs: u64,
    /// Edges that the seeds reached, and that were reached in the end.
    coverage: (u64, u64),
    inputs: u64,
}

impl Report {
    fn read(said: &str) -> Option<Self> {
        let after = |text: &str, key: &str| -> Option<u64> {
            text.split_once(key)?.1.split_whitespace().next()?.parse().ok()
        };
        let mut edges = said.lines().filter(|l| l.starts_with('#')).filter_map(|l| after(l, " cov: "));
        // Without a single edge the program was not instrumented, and the run proves nothing.
        let first = edges.next().filter(|&edges| edges > 0)?;
        Some(Self {
            runs: after(said, "stat::number_of_executed_units:")?,
            coverage: (first, edges.next_back().unwrap_or(first)),
            inputs: after(said, "stat::new_units_added:")?,
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { runs, coverage: (first, last), inputs } = self;
        write!(f, "{runs} runs, {last} edges ({} new), {inputs} new inputs", last.saturating_sub(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_libfuzzers_report() {
        let said = "INFO: Seed: 1\n#3\tINITED cov: 12 ft: 13 corp: 2/2b exec/s: 0 rss: 30Mb\n\
                    #9\tNEW    cov: 15 ft: 17 corp: 3/4b lim: 4 exec/s: 0 rss: 30Mb L: 2/2 MS: 1 CopyPart-\n\
                    #100\tDONE   cov: 16 ft: 17 corp: 3/4b lim: 4 exec/s: 50 rss: 30Mb\n\
                    stat::number_of_executed_units: 100\nstat::new_units_added:          7\n";
        let report = Report { runs: 100, coverage: (12, 16), inputs: 7 };
        assert_eq!(Report::read(said), Some(report));
        assert_eq!(Report::read(&said.replace("cov: 12", "cov: 0")), None);
        assert_eq!(Report::read(""), None);
    }
}
