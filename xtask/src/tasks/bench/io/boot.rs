//! What each device adds to a boot: to jiffy's part, from exec to the first entry into the guest, and to the guest's, from
//! there to init, exits included.

use std::fs;
use std::path::Path;

use abi::init_config::Directive;
use abi::timeline::Mark;
use agent::{Status, Step};
use anyhow::{Result, ensure};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::lab::{self, Lab, Speed, StepReport, Way};
use xtask::tuned::{Recipe, Variant};
use xtask::{built, initramfs, timeline};

use super::System;

/// Each start is done so often, since the first one finds cold caches; the least counts.
const STARTS: usize = 2;
/// What a device may add to jiffy's part, in millions of instructions.
const TARGET: f64 = 0.15;
/// In the lab, before each start.
const BEFORE: &str = "export PAD=$0; tunctl -t tap0 >/dev/null 2>&1; test -f /tmp/disk || \
                      dd if=/dev/zero of=/tmp/disk bs=1048576 count=4 2>/dev/null; rm -f /tmp/v; exec \"$@\"";
const NOTHING: Device = ("no device", &[]);
const DEVICES: [Device; 5] = [
    ("entropy", &["--rng"]),
    ("disk", &["--disk", "path=/tmp/disk"]),
    ("pmem", &["--pmem", "path=/tmp/disk"]),
    ("network", &["--net", "tap=tap0"]),
    ("vsock", &["--vsock", "cid=3,path=/tmp/v"]),
];

/// Its name, and the options for it.
type Device = (&'static str, &'static [&'static str]);

/// What a device adds, in millions of instructions.
#[derive(Debug, Serialize)]
pub(super) struct Added {
    device: &'static str,
    transport: System,
    vmm: f64,
    guest: f64,
}

/// Boots without devices and with each.
pub(super) fn measure(ctx: &Ctx, seed: u64) -> Result<Vec<Added>> {
    let place = tempfile::tempdir()?;
    let lab = lab(ctx, seed, place.path())?;
    let with = [System::Mmio, System::Pci].into_iter().flat_map(|system| DEVICES.map(|one| (system, one)));
    let plan: Vec<_> = std::iter::once((System::Mmio, NOTHING)).chain(with).collect();
    let jobs = (0..plan.len()).flat_map(|place| [place; STARTS]).collect();
    let mut least = vec![(f64::INFINITY, f64::INFINITY); plan.len()];
    let take = |place: usize, step: &StepReport| {
        let (vmm, guest) = times(step)?;
        let least: &mut (f64, f64) = &mut least[place];
        *least = (least.0.min(vmm), least.1.min(guest));
        Ok(())
    };
    super::repeat::until_all_end(ctx, &lab, jobs, |&place, pad| step(plan[place], pad), take)?;
    let Some((&(vmm, guest), with)) = least.split_first() else { return Ok(Vec::new()) };
    let added = |(&(transport, (device, _)), with): (&(System, Device), &(f64, f64))| Added {
        device,
        transport,
        vmm: with.0 - vmm,
        guest: with.1 - guest,
    };
    Ok(plan[1..].iter().zip(with).map(added).collect())
}

/// One start. `pad` changes nothing but bytes of the environment.
fn step((system, (name, flags)): (System, Device), pad: &str) -> Step {
    let line = "{jiffy} run --kernel {kernel} --initrd {initrd} --kaslr off --memory 128M --timeline json \
                --timeline-origin {origin} --transport";
    let transport = system.to_string();
    let words = ["/bin/sh", "-c", BEFORE, pad].into_iter().chain(line.split_whitespace());
    let words = words.chain([transport.as_str()]).chain(flags.iter().copied());
    let step = lab::step(&format!("{name} by {system}"), words.map(str::to_owned));
    Step { deadline_ms: super::DEADLINE_MS, ..step }
}

fn lab(ctx: &Ctx, seed: u64, place: &Path) -> Result<Lab> {
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed }));
    let config = [Directive::Exec("/init"), Directive::Arg("greet")];
    let initrd = place.join("initrd");
    fs::write(&initrd, initramfs::with_init(built::INIT.read(ctx)?, &config)?.build()?)?;
    lab.modules.push("tun".to_owned());
    lab.file("jiffy", &built::JIFFY.path(ctx)?).file("initrd", &initrd);
    lab.file("kernel", &Recipe::read(ctx, Variant::Fast)?.build(ctx)?.vmlinux());
    Ok(lab)
}

/// Millions of instructions to the first entry, and from there to init.
fn times(step: &StepReport) -> Result<(f64, f64)> {
    let said = String::from_utf8_lossy(&step.stderr);
    ensure!(step.status == Status::Exited(0), "{:?}: {said}", step.status);
    let rows = timeline::read(&said)?;
    let entry = timeline::first_run(&rows)?.at_ns;
    let init = timeline::mark(&rows, Mark::INIT_START)?.at_ns;
    Ok((entry as f64 / 1e6, (init - entry) as f64 / 1e6))
}

/// Prints them.
pub(super) fn print(all: &[Added]) {
    println!(
        "\nAdded to a boot, millions of instructions: exec to the first entry, and from there to init\n"
    );
    println!("{:<10}{:>6}{:>10}{:>10}", "", "", "jiffy", "guest");
    for Added { device, transport, vmm, guest } in all {
        let verdict = if *vmm <= TARGET { "met" } else { "MISSED" };
        println!("{device:<10}{:>6}{vmm:>10.3}{guest:>10.3}  jiffy ≤ {TARGET} {verdict}", transport.name());
    }
}
