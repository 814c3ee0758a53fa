//! Runs scenarios in the nested lab, where time is instructions, and reads what they cost.
//!
//! Each is run twice, in two labs of the same bytes side by side: in one with the profiler, which tells whose
//! instructions they were, in the other without. Its counting takes no virtual time, so both must show the same times.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use abi::init_config::Directive;
use agent::{Status, Step};
use anyhow::{Context, Result, bail, ensure};

use super::phase::{self, Phase, Whose};
use super::scenario::{Devices, Entry, Guest, Scenario, device_flags};
use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::lab::{self, Lab, Speed, StepReport, Way};
use crate::profile::{self, Programs, Start, Symbols};
use crate::timeline::{self, Row};
use crate::tuned::{Recipe, Variant};
use crate::{built, drivers, guests, initramfs};

/// What is started, and the names of its functions.
#[derive(Clone, Debug)]
pub struct Subjects {
    jiffy: PathBuf,
    init: PathBuf,
    symbols: Programs,
}

impl Subjects {
    /// What cargo has built last, as users get it.
    pub fn built(ctx: &Ctx) -> Result<Self> {
        let symbols = Programs::built(ctx)?;
        Ok(Self { jiffy: built::JIFFY.path(ctx)?, init: built::INIT.path(ctx)?, symbols })
    }

    /// These files, which have the names of their functions.
    pub fn of(ctx: &Ctx, jiffy: PathBuf, init: PathBuf) -> Result<Self> {
        let built = Programs::built(ctx)?;
        let symbols = Programs { vmm: Symbols::of(&jiffy)?, init: Symbols::of(&init)?, ..built };
        Ok(Self { jiffy, init, symbols })
    }
}

/// What was found of scenarios.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The phases of each, by its name.
    pub scenarios: BTreeMap<String, Vec<Phase>>,
    /// Where the two runs differ, a line each.
    pub differences: Vec<String>,
}

/// How often a start that ends at once is made in a lab: the least of each figure counts. The first finds cold caches,
/// and one in some ten meets the host's kernel filling a cache of its own. Starts of Linux take a thousand times longer.
const STARTS: usize = 5;
/// A lab that counts may stall, and does so again unless something changes.
const SEEDS: [u64; 3] = [1, 2, 3];
/// Virtual time for a start: several times what the longest needs. A stalled one takes a minute and more of wall time.
const DEADLINE_MS: u64 = 6_000;
/// Bytes of what is on the disk, and of persistent memory.
const IMAGE_LEN: u64 = 2 << 20;
/// Where jiffy keeps unpacked kernels in the lab.
const CACHE: &str = "/tmp/cache";

/// Measures scenarios.
pub fn measure(ctx: &Ctx, subjects: &Subjects, scenarios: &[Scenario]) -> Result<Measured> {
    let mut last = None;
    for seed in SEEDS {
        match attempt(ctx, subjects, scenarios, seed) {
            Ok(measured) => return Ok(measured),
            Err(error) => {
                eprintln!("guard: with seed {seed}: {error:#}");
                last = Some(error);
            }
        }
    }
    Err(last.context("no seeds")?)
}

fn attempt(ctx: &Ctx, subjects: &Subjects, scenarios: &[Scenario], seed: u64) -> Result<Measured> {
    let place = tempfile::tempdir()?;
    let lab = lab(ctx, subjects, scenarios, place.path(), seed)?;
    let starts = starts(scenarios);
    let steps: Vec<Step> = starts.iter().map(|(_, step)| step.clone()).collect();
    let kernels = kernels(ctx, scenarios)?;
    let profiled: Vec<_> = starts
        .iter()
        .map(|(scenario, step)| {
            let kernel = scenario.and_then(|scenario| kernels.get(&scenario.guest));
            Start { step: step.clone(), kernel }
        })
        .collect();
    let (profiled, plain) = thread::scope(|scope| {
        let plain = scope.spawn(|| lab.run(ctx, &steps));
        (profile::run(ctx, &lab, &profiled, &subjects.symbols), plain.join())
    });
    let (counted, profiles) = profiled?;
    let Ok(plain) = plain else { bail!("the second lab's thread panicked") };
    let mut measured = Measured::default();
    let runs = counted.steps.iter().zip(plain?.steps).zip(profiles);
    for ((scenario, _), ((counted, plain), profile)) in starts.iter().zip(runs) {
        for step in [counted, &plain] {
            let said =
                || format!("{}: {:?}: {}", step.name, step.status, String::from_utf8_lossy(&step.stderr));
            ensure!(step.status == Status::Exited(0), said());
        }
        let Some(scenario) = scenario else { continue };
        let (rows, again) = (rows(counted)?, rows(&plain)?);
        measured.differences.extend(differences(&scenario.name(), &rows, &again));
        let phases = phase::phases(&rows, &profile.phases);
        match measured.scenarios.get_mut(&scenario.name()) {
            None => drop(measured.scenarios.insert(scenario.name(), phases)),
            Some(least) => {
                ensure!(
                    least.len() == phases.len(),
                    "{}: one start has more phases than another",
                    plain.name
                );
                least.iter_mut().zip(phases).for_each(|(least, phase)| keep_least(least, phase));
            }
        }
    }
    Ok(measured)
}

/// Our own code does the same each time; the kernels do not.
fn keep_least(least: &mut Phase, phase: Phase) {
    if phase.total() < least.total() {
        *least = Phase { idle: least.idle.min(phase.idle), ..phase };
    } else {
        least.idle = least.idle.min(phase.idle);
    }
}

/// Makes the tap, and reads all files until the lab's kernel has them among those that are often read: that would count for
/// the first scenario of each kernel.
const READY: &str =
    "tunctl -t tap0 >/dev/null; for again in 1 2 3; do cat $(dirname {jiffy})/* >/dev/null || exit; done";

/// The steps, and whose figures each gives; none where it only makes things ready, or fills jiffy's cache.
fn starts(scenarios: &[Scenario]) -> Vec<(Option<&Scenario>, Step)> {
    let mut starts = vec![(None, lab::step("ready", ["/bin/sh", "-c", READY]))];
    let mut unpacked: Vec<Guest> = Vec::new();
    for scenario in scenarios {
        if scenario.entry == Entry::Bzimage && !unpacked.contains(&scenario.guest) {
            unpacked.push(scenario.guest);
            starts.push((None, step(scenario)));
        }
        let count = if scenario.guest == Guest::Mark { STARTS } else { 1 };
        starts.extend((0..count).map(|_| (Some(scenario), step(scenario))));
    }
    starts
}

/// The command that starts a scenario.
fn step(scenario: &Scenario) -> Step {
    let mut line = format!(
        "{{jiffy}} run --kernel {{{}}} --memory {}M --cpus 1 --timeline json --timeline-origin {{origin}}",
        kernel_name(scenario),
        scenario.memory_mib
    );
    line += match scenario.entry {
        Entry::Linux64 => " --kaslr off --protocol linux64",
        Entry::Pvh => " --kaslr off --protocol pvh",
        Entry::Bzimage => " --kaslr off",
        Entry::Firmware => " --firmware {rom}",
    };
    line += match (scenario.guest, scenario.devices) {
        (Guest::Mark, _) => "",
        (Guest::Debian, Some(_)) => " --initrd {initrd-with-modules}",
        _ => " --initrd {initrd}",
    };
    let flags = scenario.devices.map(Devices::flags).unwrap_or_default();
    let words = line.split_whitespace().chain(flags);
    let mut step = lab::step(&scenario.name(), words);
    step.env.push(("XDG_CACHE_HOME".to_owned(), CACHE.to_owned()));
    step.deadline_ms = DEADLINE_MS;
    step
}

/// A lab with all files that the scenarios need. `place` is a folder that lives as long as the lab.
fn lab(ctx: &Ctx, subjects: &Subjects, scenarios: &[Scenario], place: &Path, seed: u64) -> Result<Lab> {
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed }));
    lab.memory_mib = 4096;
    lab.file("jiffy", &subjects.jiffy);
    for scenario in scenarios {
        lab.file(&kernel_name(scenario), &kernel(ctx, scenario)?);
    }
    lab.file("rom", &built::FIRMWARE.path(ctx)?);
    lab.modules.push("tun".to_owned());
    let debian = Kernel::debian(ctx)?;
    for (name, modules) in [("initrd", Vec::new()), ("initrd-with-modules", drivers::of(device_flags()))] {
        let load = modules.iter().map(|&name| Directive::Module { name, parameters: "" });
        let greet = [Directive::Hostname("guest"), Directive::Exec("/init"), Directive::Arg("greet")];
        let config: Vec<_> = load.chain(greet).collect();
        let init = fs::read(&subjects.init).with_context(|| subjects.init.display().to_string())?;
        let mut cpio = initramfs::with_init(init, &config)?;
        if !modules.is_empty() {
            initramfs::add_modules(&mut cpio, &debian, &modules)?;
        }
        let initrd = place.join(name);
        fs::write(&initrd, cpio.build()?)?;
        lab.file(name, &initrd);
    }
    for name in ["disk", "pmem"] {
        let image = place.join(name);
        File::create(&image)?.set_len(IMAGE_LEN)?;
        lab.file(name, &image);
    }
    Ok(lab)
}

fn kernel_name(scenario: &Scenario) -> String {
    match (scenario.guest, scenario.entry) {
        (guest, Entry::Bzimage) => format!("{guest}-bzimage"),
        (guest, _) => guest.to_string(),
    }
}

fn kernel(ctx: &Ctx, scenario: &Scenario) -> Result<PathBuf> {
    let compressed = scenario.entry == Entry::Bzimage;
    Ok(match scenario.guest {
        Guest::Mark => guests::build(ctx, "mark")?,
        Guest::Fast => {
            let tuned = Recipe::read(ctx, Variant::Fast)?.build(ctx)?;
            if compressed { tuned.image() } else { tuned.vmlinux() }
        }
        Guest::Debian if compressed => Kernel::debian(ctx)?.image,
        Guest::Debian => Kernel::debian(ctx)?.vmlinux(ctx)?,
    })
}

fn rows(step: &StepReport) -> Result<Vec<Row>> {
    timeline::read(&String::from_utf8_lossy(&step.stderr)).with_context(|| step.name.clone())
}

/// The functions of the kernels that are booted.
fn kernels(ctx: &Ctx, scenarios: &[Scenario]) -> Result<BTreeMap<Guest, Symbols>> {
    let booted: BTreeSet<Guest> = scenarios.iter().map(|scenario| scenario.guest).collect();
    let symbols = |guest| match guest {
        Guest::Mark => Symbols::of(&guests::build(ctx, "mark")?),
        Guest::Fast => Symbols::of(&Recipe::read(ctx, Variant::Fast)?.build(ctx)?.vmlinux()),
        Guest::Debian => Symbols::debian(ctx),
    };
    booted.into_iter().map(|guest| Ok((guest, symbols(guest)?))).collect()
}

/// Where one run took another time than the other, or worked for another part of it.
fn differences(name: &str, one: &[Row], other: &[Row]) -> Vec<String> {
    if one.len() != other.len() {
        return vec![format!("{name}: {} events in one run, {} in the other", one.len(), other.len())];
    }
    let both = one.iter().zip(other).map(|(one, other)| (one.to_string(), other.to_string()));
    let both = both.filter(|(one, other)| one != other);
    both.map(|(one, other)| format!("{name}: {one} in one run, {other} in the other")).collect()
}

impl Measured {
    /// Functions of ours in a phase, as far as they are known.
    #[must_use]
    pub fn functions(&self, scenario: &str, phase: &str, whose: Whose) -> Option<&profile::Functions> {
        self.scenarios.get(scenario)?.iter().find(|found| found.name == phase)?.functions.get(&whose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nanosecond_is_a_difference() {
        let rows = |took: u64, cpu: u64| {
            let row = |event: &str, more: &str| {
                format!(r#"{{"event":"{event}","at_ns":{took},"took_ns":{took}{more}}}"#)
            };
            let all =
                [row("exec", ""), row("first-run", &format!(r#","cpu_ns":{cpu}"#)), row("unaccounted", "")];
            timeline::read(&format!(r#"{{"rows":[{}],"lost_marks":0}}"#, all.join(","))).unwrap()
        };
        assert!(differences("x", &rows(500, 400), &rows(500, 400)).is_empty());
        assert_eq!(
            differences("x", &rows(500, 400), &rows(500, 401)),
            [
                "x: first-run: 500 ns, working for 400 in one run, first-run: 500 ns, working for 401 in the other"
            ]
        );
        assert_eq!(differences("x", &rows(500, 400), &rows(501, 400)).len(), 2);
        assert_eq!(differences("x", &rows(500, 400), &rows(500, 400)[1..]).len(), 1);
    }

    #[test]
    fn kernels_are_unpacked_before_it_counts() {
        let of =
            |entry| *Scenario::all().iter().find(|s| (s.guest, s.entry) == (Guest::Fast, entry)).unwrap();
        let packed = [of(Entry::Linux64), of(Entry::Bzimage), of(Entry::Bzimage)];
        let counted: Vec<bool> = starts(&packed).iter().map(|(scenario, _)| scenario.is_some()).collect();
        assert_eq!(counted, [false, true, false, true, true], "the first makes things ready");
        let mark = Scenario::all()[0];
        assert_eq!(starts(&[mark]).len(), 1 + STARTS);
    }

    #[test]
    fn the_least_of_several_starts_counts() {
        let phase = |host, idle| Phase { costs: [(Whose::Host, host)].into(), idle, ..Phase::default() };
        let mut least = phase(100, 7);
        keep_least(&mut least, phase(90, 9));
        keep_least(&mut least, phase(95, 3));
        assert_eq!(least, phase(90, 3));
    }
}
