//! Profiles count exactly: of a guest of which it is known what it executes, and the same each time.

use std::process::ExitCode;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use tests::suite;
use xtask::built;
use xtask::guests;
use xtask::lab::qemu::Machine;
use xtask::lab::{self, Lab, Speed, Way};
use xtask::profile::{self, Code, Functions, Profile, Programs, Start, Symbols};

/// Of `mark.S`: two moves and an `out`, and the jump to the end.
const START: u64 = 4;

fn main() -> ExitCode {
    suite::run(|_, _| Ok(vec![suite::test("profile::nested", nested), suite::test("profile::alone", alone)]))
}

fn nested() -> Result<()> {
    let (one, two) = twice(|| {
        let ctx = suite::context()?;
        let guest = guests::build(&ctx, "mark")?;
        let mut lab = Lab::new(Way::Nested(Speed::Exact { seed: 1 }));
        lab.file("jiffy", &built::JIFFY.path(&ctx)?).file("guest", &guest);
        let line = "{jiffy} run --kernel {guest} --memory 128M --console off --timeline json --timeline-origin {origin}";
        let kernel = Symbols::of(&guest)?;
        let start = |name| Start { step: lab::step(name, line.split(' ')), kernel: Some(&kernel) };
        Ok(profile::run(&ctx, &lab, &["first", "second"].map(start), &Programs::built(&ctx)?)?.1)
    })?;
    ensure!(one == two, "two runs differ: {:?}", profile::grown(&all(&one), &all(&two)));
    let [_, profile] = one.as_slice() else { return Err(anyhow!("{} profiles of two steps", one.len())) };
    let names: Vec<&str> = profile.phases.iter().map(|phase| phase.name.as_str()).collect();
    let expected =
        ["exec", "config-read", "kvm-opened", "memory-mapped", "kernel-loaded", "vcpus-ready", "first-run"];
    ensure!(names[..7] == expected && names[7] == "mark 0x80", "phases: {names:?}");
    for phase in &profile.phases[..7] {
        let functions = phase.costs.get(&Code::Vmm).map_or(0, Functions::len);
        ensure!(functions > 3, "to {}: {functions} functions of jiffy", phase.name);
        ensure!(!phase.costs.contains_key(&Code::GuestKernel), "to {}: the guest", phase.name);
    }
    // Up to the mark all but the jump, which comes after it.
    ensure!(
        guest(profile, 7) == Functions::from([("_start".to_owned(), START - 1)]),
        "{:?}",
        guest(profile, 7)
    );
    ensure!(guest(profile, 8).get("_start") == Some(&1), "{:?}", guest(profile, 8));
    let exits: Vec<_> =
        profile.exits.iter().filter(|exit| exit.phase == "mark 0x80" && exit.kind == "out").collect();
    let [out] = exits.as_slice() else { return Err(anyhow!("exits to the mark: {exits:?}")) };
    ensure!(
        (out.count, out.function.as_str()) == (1, "_start") && out.kernel > 100 && out.user > 10,
        "{out:?}"
    );
    // What was executed took that long, but for the way to the clock, and faults.
    let (executed, took) = profile.phases[2..4].iter().fold((0, 0), |(executed, took), phase| {
        (executed + phase.total(), took + phase.took_ns.unwrap_or_default())
    });
    ensure!(took.abs_diff(executed) < took / 100, "{executed} instructions took {took} ns");
    Ok(())
}

fn alone() -> Result<()> {
    let (one, two) = twice(|| {
        let ctx = suite::context()?;
        let kernel = guests::build(&ctx, "mark")?;
        let symbols = Symbols::of(&kernel)?;
        let mut machine = Machine::with_firmware("microvm,acpi=off", "qboot.rom".into());
        machine.kernel = Some(kernel);
        machine.speed = Speed::Exact { seed: 1 };
        machine.args = ["-device", "isa-debug-exit,iobase=0x600,iosize=1"].map(str::to_owned).to_vec();
        Ok(vec![profile::alone(&ctx, &machine, &symbols, &Programs::built(&ctx)?, true)?])
    })?;
    ensure!(one == two, "two runs differ: {one:?} {two:?}");
    let functions = guest(&one[0], 0);
    ensure!(functions.get("_start") == Some(&START), "{functions:?}");
    let outs: u64 = one[0].exits.iter().filter(|exit| exit.kind == "out").map(|exit| exit.count).sum();
    ensure!(outs == 2, "{:?}", one[0].exits);
    Ok(())
}

/// Two runs, side by side.
fn twice(run: fn() -> Result<Vec<Profile>>) -> Result<(Vec<Profile>, Vec<Profile>)> {
    thread::scope(|scope| {
        let other = scope.spawn(run);
        let one = run()?;
        Ok((one, other.join().map_err(|_| anyhow!("the other run panicked"))??))
    })
}

/// What the guest executed in a phase.
fn guest(profile: &Profile, phase: usize) -> Functions {
    profile
        .phases
        .get(phase)
        .and_then(|phase| phase.costs.get(&Code::GuestKernel))
        .cloned()
        .unwrap_or_default()
}

/// What was executed, by step and phase.
fn all(profiles: &[Profile]) -> std::collections::BTreeMap<String, Functions> {
    let codes = [Code::Vmm, Code::LabKernel, Code::LabProgram, Code::GuestKernel, Code::GuestOther];
    let phases = profiles.iter().flat_map(|profile| {
        let name = move |(phase, functions)| (format!("{}, {phase}", profile.name), functions);
        profile.functions(&codes).into_iter().map(name)
    });
    phases.collect()
}
