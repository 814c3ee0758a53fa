//! The assembly guests that check what their protocol promises them, in every register, table and map.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use tests::payloads::{CHECKS, Check, modules};
use tests::suite;
use xtask::ctx::Ctx;
use xtask::guests::{self, Form};
use xtask::lab::qemu::Machine;
use xtask::payload::Payload;

use super::{MACHINES, boot, machine};

/// Machines with something that changes what the firmware finds: no ACPI, PCI on microvm, devices with BARs and one
/// whose tables a firmware writes back to, bridges, memory above 4 GiB.
const VARIANTS: [(&str, &[&str]); 5] = [
    ("microvm,acpi=off", &[]),
    ("microvm,pcie=on", &["-device", "virtio-rng-pci"]),
    (
        "q35",
        &[
            "-device",
            "vmgenid",
            "-device",
            "virtio-rng-pci",
            "-device",
            "pcie-root-port,id=p",
            "-device",
            "virtio-serial-pci,bus=p",
        ],
    ),
    (
        "pc",
        &[
            "-device",
            "vmgenid",
            "-device",
            "pci-bridge,id=b,chassis_nr=1",
            "-device",
            "virtio-rng-pci,bus=b,addr=1",
        ],
    ),
    ("q35", &["-m", "5G"]),
];

pub(super) fn trials(place: &std::path::Path) -> Result<Vec<Trial>> {
    let [first, second] = modules(place)?;
    let both = || vec![first.clone(), second.clone()];
    let on_all = |check| MACHINES.map(|name| files(check, name, &[], both()));
    let mut trials: Vec<Trial> = CHECKS.into_iter().flat_map(on_all).collect();
    for check in [CHECKS[0], CHECKS[7], CHECKS[8], CHECKS[10]] {
        trials.extend(VARIANTS.map(|(name, args)| files(check, name, args, both())));
    }
    for check in [CHECKS[0], CHECKS[8]] {
        trials.extend(MACHINES.map(|name| by_kernel(check, name, first.0.clone())));
    }
    trials.push(can_fail(second.0));
    Ok(trials)
}

/// By the files that only Jiffy's firmware knows, with two modules.
fn files(
    check: Check,
    name: &'static str,
    args: &'static [&'static str],
    modules: Vec<(PathBuf, String)>,
) -> Trial {
    let more: String = args.iter().map(|arg| format!(" {arg}")).collect();
    suite::test(&format!("payload::{} on {name}{more}", check.name()), move || {
        let ctx = suite::context()?;
        let payload = Payload {
            kernel: guests::payload(&ctx, check.source, check.form)?,
            cmdline: check.cmdline(modules.len(), true, !name.contains("acpi=off")),
            modules,
            protocol: check.protocol,
        };
        let made = tempfile::tempdir()?;
        let mut machine = machine(&ctx, name)?;
        machine.args.extend(payload.qemu_args(made.path())?);
        machine.args.extend(args.iter().map(|&arg| arg.to_owned()));
        passes(&ctx, &machine, check.pass)
    })
}

/// By QEMU's own `-kernel` and `-initrd`.
fn by_kernel(check: Check, name: &'static str, initrd: PathBuf) -> Trial {
    suite::test(&format!("payload::{} on {name} by -kernel", check.name()), move || {
        let ctx = suite::context()?;
        let mut machine = machine(&ctx, name)?;
        machine.kernel = Some(guests::payload(&ctx, check.source, check.form)?);
        machine.initrd = Some(initrd);
        machine.cmdline = check.cmdline(1, false, true);
        passes(&ctx, &machine, check.pass)
    })
}

/// A guest that finds another module than it knows says so.
fn can_fail(initrd: PathBuf) -> Trial {
    suite::test("payload::a_check_that_fails", move || {
        let ctx = suite::context()?;
        let mut machine = machine(&ctx, "microvm")?;
        machine.kernel = Some(guests::payload(&ctx, "pvh", Form::Elf32)?);
        machine.initrd = Some(initrd);
        machine.cmdline = CHECKS[0].cmdline(1, false, true);
        let (ended, shown) = boot(&ctx, &machine)?;
        ensure!(shown.contains("check: a module has another length"), "{shown:?}");
        ensure!(ended.status == Some(1), "status {:?}", ended.status);
        Ok(())
    })
}

fn passes(ctx: &Ctx, machine: &Machine, pass: &str) -> Result<()> {
    let (ended, shown) = boot(ctx, machine)?;
    ensure!(shown.lines().any(|line| line.trim_end().ends_with(pass)), "no {pass:?}: {shown:?}");
    ensure!(ended.status == Some(0), "status {:?}: {shown:?}", ended.status);
    Ok(())
}
