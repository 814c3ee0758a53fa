//! Suites: guests that share a lab, and tests of other kinds beside them.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use abi::init_config::Directive;
use agent::Event;
use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use xtask::cpio::Cpio;
use xtask::ctx::{Ctx, Options};
use xtask::kernel::Kernel;
use xtask::lab::{Lab, Report, Speed, StepReport, Way, emulator};
use xtask::probe::{self, Level};
use xtask::skip;
use xtask::tuned::{Recipe, Variant};
use xtask::{built, initramfs};

use crate::Guest;

/// Last lines of a run that are shown when it fails.
const SHOWN_LINES: usize = 40;

/// The context of suites, as of xtask's tasks.
pub fn context() -> Result<Ctx> {
    Ctx::new(&Options::default())
}

/// A nested lab with `jiffy` in it; all guests run there.
pub fn nested_lab(ctx: &Ctx) -> Result<Lab> {
    lab(ctx, Way::Nested(Speed::Functional))
}

/// A lab for guests that every KVM can run: this host if it has any KVM, else a nested one.
pub fn tiny_lab(ctx: &Ctx) -> Result<Lab> {
    let way = match probe::probe(ctx)?.level {
        Level::Hardware | Level::Software => Way::Native,
        Level::None => Way::Nested(Speed::Functional),
    };
    lab(ctx, way)
}

fn lab(ctx: &Ctx, way: Way) -> Result<Lab> {
    let mut lab = Lab::new(way);
    lab.file("jiffy", &built::JIFFY.path(ctx)?);
    Ok(lab)
}

/// Busybox and `modules` of `kernel` in an initramfs whose init loads them.
pub fn initramfs(ctx: &Ctx, kernel: &Kernel, modules: &[&str]) -> Result<Cpio> {
    let config: Vec<_> = modules.iter().map(|&name| Directive::Module { name, parameters: "" }).collect();
    let mut cpio = initramfs::with_init(built::INIT.read(ctx)?, &config)?;
    initramfs::add_busybox(&mut cpio, ctx)?;
    initramfs::add_modules(&mut cpio, kernel, modules)?;
    Ok(cpio)
}

/// Has `lab` get `{kernel}`, which is Debian's, and `{initrd}`, an [`initramfs()`] of it, which is written to `place`.
pub fn debian(ctx: &Ctx, lab: &mut Lab, place: &Path, modules: &[&str]) -> Result<()> {
    let kernel = Kernel::debian(ctx)?;
    let initrd = place.join("initrd");
    fs::write(&initrd, initramfs(ctx, &kernel, modules)?.build()?)?;
    lab.file("kernel", &kernel.vmlinux(ctx)?).file("initrd", &initrd);
    Ok(())
}

/// Has `lab` get `{fast}`, the guest kernel made for `jiffy`. False if there is none, which standard error then says.
pub fn fast(ctx: &Ctx, lab: &mut Lab) -> Result<bool> {
    match Recipe::read(ctx, Variant::Fast)?.cached(ctx) {
        Some(kernel) => lab.file("fast", &kernel.image()),
        None => {
            eprintln!("without the kernel `fast`, which has not been built (cargo xtask kernel build)");
            return Ok(false);
        }
    };
    Ok(true)
}

/// How often a guest is run again that the emulator has failed.
const MORE_RUNS: usize = 2;

/// Guests that are run one after the other at one start of a lab, when the first result is asked for.
struct Batch {
    ctx: Ctx,
    lab: Lab,
    guests: Vec<Guest>,
    report: OnceLock<Result<Report, String>>,
    /// Whether a test has told why the lab failed.
    explained: AtomicBool,
}

impl Batch {
    /// Runs the guests, and those again that the emulator has failed.
    fn run(&self) -> Result<Report> {
        let run = |guests: &[Guest]| {
            let steps: Vec<_> = guests.iter().map(Guest::step).collect();
            self.lab.watch(&self.ctx, &steps, &mut progress(guests))
        };
        let mut all = run(&self.guests)?;
        if self.lab.way == Way::Native {
            return Ok(all);
        }
        for (report, guest) in all.steps.iter_mut().zip(&self.guests) {
            for _ in 0..MORE_RUNS {
                let Some(why) = emulator::fault(report).filter(|_| guest.check(report).is_err()) else {
                    break;
                };
                eprintln!("{}: {why}; again", guest.name());
                let again = run(std::slice::from_ref(guest))?;
                *report = again.steps.into_iter().next().context("the lab has no report of it")?;
            }
        }
        Ok(all)
    }

    fn check(&self, index: usize) -> Result<(), Failed> {
        let all = self.report.get_or_init(|| self.run().map_err(|error| format!("{error:#}")));
        let all = all.as_ref().map_err(|error| match self.explained.swap(true, Ordering::Relaxed) {
            false => format!("the lab failed: {error}"),
            true => "the lab failed, as another test says".to_owned(),
        })?;
        let report = all.steps.get(index).ok_or("the lab has no report of it")?;
        self.guests[index].check(report).map_err(|error| explain(&error, report, &all.console).into())
    }
}

/// Says on standard error when a guest has ended, since a lab with many of them takes minutes.
fn progress(guests: &[Guest]) -> impl FnMut(u32, &Event) {
    move |step, event| {
        if let (Event::End(end), Some(guest)) = (event, guests.get(step as usize)) {
            let ms = end.ended_ns.saturating_sub(end.started_ns) / 1_000_000;
            eprintln!("{}: {:?} after {ms} ms", guest.name(), end.status);
        }
    }
}

/// What went wrong, and the last of what the run and its lab said.
fn explain(error: &anyhow::Error, report: &StepReport, lab: &str) -> String {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ")
    };
    let [stdout, stderr, lab] = [&report.stdout, &report.stderr, lab.as_bytes()].map(last);
    format!("{error:#}\nconsole:\n  {stdout}\nstandard error:\n  {stderr}\nthe lab's own console:\n  {lab}")
}

/// The tests of `guests`, which `lab` runs. Those that the command line leaves out are not run.
pub fn guests(ctx: &Ctx, lab: Lab, guests: Vec<Guest>) -> Result<Vec<Trial>> {
    let args = Arguments::from_args();
    let guests: Vec<Guest> = guests.into_iter().filter(|guest| wanted(&args, guest.name())).collect();
    let names: Vec<String> = guests.iter().map(|guest| guest.name().to_owned()).collect();
    for (index, name) in names.iter().enumerate() {
        ensure!(!names[..index].contains(name), "two guests are named {name}");
    }
    let batch = Arc::new(Batch {
        ctx: ctx.clone(),
        lab,
        guests,
        report: OnceLock::new(),
        explained: AtomicBool::new(false),
    });
    let trial = |(index, name): (usize, String)| {
        let batch = Arc::clone(&batch);
        Trial::test(name, move || batch.check(index))
    };
    Ok(names.into_iter().enumerate().map(trial).collect())
}

fn wanted(args: &Arguments, name: &str) -> bool {
    let fits = |filter: &String| if args.exact { name == filter } else { name.contains(filter) };
    args.filter.as_ref().is_none_or(fits) && !args.skip.iter().any(fits)
}

/// A test that is a function.
pub fn test(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || test().map_err(|error| format!("{error:#}").into()))
}

/// Whether this host gives namespaces by these options of unshare(1), as a container may not.
pub fn gives_namespaces(options: &[&str]) -> bool {
    let tried = Command::new("unshare").args(options).arg("true").stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Says that `test` is not run since [`gives_namespaces`] is false.
pub fn note_no_namespaces(test: &str, options: &[&str]) {
    skip::note(test, &format!("this host gives no namespaces (`unshare {} true` fails)", options.join(" ")));
}

/// Runs those of the tests made by `trials` that the command line selects, and prints what came of them. `trials` gets a
/// folder for files that the tests need; it is there until they have ended. A suite that runs none although no filter
/// was given fails.
pub fn run(trials: impl FnOnce(&Ctx, &Path) -> Result<Vec<Trial>>) -> ExitCode {
    let args = Arguments::from_args();
    let place = tempfile::tempdir().context("no temporary folder");
    let trials = context().and_then(|ctx| trials(&ctx, place.as_ref().map_err(|e| anyhow!("{e:#}"))?.path()));
    match trials {
        Ok(trials) if !trials.is_empty() || args.filter.is_some() => {
            libtest_mimic::run(&args, trials).exit_code()
        }
        Ok(_) => fail("it has no tests"),
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("the suite cannot be run: {why}");
    ExitCode::FAILURE
}
