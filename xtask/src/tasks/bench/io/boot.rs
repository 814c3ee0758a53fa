//! What each device adds to a boot: to jiffy's part, from exec to the first entry into the guest, and to the guest's, from
//! there to init, exits included.

use std::fs;
use std::path::Path;

use abi::init_config::Directive;
use abi::timeline::Mark;
use agent::Status;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::lab::{self, Lab, Speed, Way};
use xtask::tuned::{Recipe, Variant};
use xtask::{built, initramfs, timeline};

use super::System;

/// Each start is done so often, since the first one finds cold caches; the least counts.
const STARTS: usize = 2;
/// What a device may add to jiffy's part, in millions of instructions.
const TARGET: f64 = 0.15;
/// In the lab, before each start.
const BEFORE: &str = "tunctl -t tap0 >/dev/null 2>&1; test -f /tmp/disk || \
                      dd if=/dev/zero of=/tmp/disk bs=1048576 count=4 2>/dev/null; rm -f /tmp/v; exec \"$@\"";
const DEVICES: [(&str, &[&str]); 5] = [
    ("entropy", &["--rng"]),
    ("disk", &["--disk", "path=/tmp/disk"]),
    ("pmem", &["--pmem", "path=/tmp/disk"]),
    ("network", &["--net", "tap=tap0"]),
    ("vsock", &["--vsock", "cid=3,path=/tmp/v"]),
];

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
    let _progress = ctx.step("Booting with each device in the nested lab, counting instructions");
    let place = tempfile::tempdir()?;
    let lab = lab(ctx, seed, place.path())?;
    let systems = [System::Mmio, System::Pci];
    let plan = systems.iter().flat_map(|&system| DEVICES.map(|device| (system, device)));
    let plan: Vec<_> = plan.collect();
    let line = "{jiffy} run --kernel {kernel} --initrd {initrd} --kaslr off --memory 128M --timeline json \
                --timeline-origin {origin}";
    let words = |flags: &[&str], transport: &str| {
        let words = ["/bin/sh", "-c", BEFORE, "sh"].into_iter().chain(line.split_whitespace());
        words
            .chain(["--transport", transport])
            .chain(flags.iter().copied())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut steps = vec![lab::step("no device", words(&[], "mmio")); STARTS];
    for (system, (name, flags)) in &plan {
        let step = lab::step(&format!("{name} by {system}"), words(flags, &system.to_string()));
        steps.extend(std::iter::repeat_n(step, STARTS));
    }
    let report = lab.run(ctx, &steps)?;
    let starts = report.steps.chunks(STARTS).map(least).collect::<Result<Vec<_>>>()?;
    let [(vmm, guest), with @ ..] = starts.as_slice() else { return Ok(Vec::new()) };
    let added = |((transport, (device, _)), with): (_, &(f64, f64))| Added {
        device,
        transport,
        vmm: with.0 - vmm,
        guest: with.1 - guest,
    };
    Ok(plan.into_iter().zip(with).map(added).collect())
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

/// The least of some starts: millions of instructions to the first entry, and from there to init.
fn least(steps: &[lab::StepReport]) -> Result<(f64, f64)> {
    let mut least = (f64::INFINITY, f64::INFINITY);
    for step in steps {
        let said = String::from_utf8_lossy(&step.stderr);
        ensure!(step.status == Status::Exited(0), "{}: {:?}: {said}", step.name, step.status);
        let rows = timeline::read(&said).with_context(|| step.name.clone())?;
        let entry = timeline::first_run(&rows)?.at_ns;
        let init = timeline::mark(&rows, Mark::INIT_START)?.at_ns;
        least = (least.0.min(entry as f64 / 1e6), least.1.min((init - entry) as f64 / 1e6));
    }
    Ok(least)
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
