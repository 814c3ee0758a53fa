//! Linux: Debian's kernel by each of the bzImage's entries and by PVH, and Jiffy's own where it has been built.

use std::fs;
use std::path::{Path, PathBuf};

use abi::firmware::{PROTOCOL, Protocol};
use abi::init_config::Directive;
use abi::timeline::Mark;
use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use tests::suite;
use xtask::kernel::Kernel;
use xtask::tuned::{Recipe, Variant};
use xtask::{built, initramfs};

use super::{boot, machine};

/// With ACPI, QEMU's microvm has no timer by which a Linux under emulation could calibrate its clock.
const MACHINES: [&str; 3] = ["microvm,acpi=off", "q35", "pc"];
/// Testing its ciphers is most of a kernel's boot; its test of the timer fails where the host is too busy to tick.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests no_timer_check";

pub(super) fn trials(place: &Path) -> Result<Vec<Trial>> {
    let ctx = suite::context()?;
    let initrd = place.join("initrd");
    let config = [Directive::Exec("/init"), Directive::Arg("greet"), Directive::PortsAlways];
    fs::write(&initrd, initramfs::with_init(built::INIT.read(&ctx)?, &config)?.build()?)?;
    let debian = Kernel::debian(&ctx)?;
    let mut kernels = vec![("debian_vmlinux", debian.vmlinux(&ctx)?, None)];
    for protocol in [Protocol::Linux64, Protocol::Linux32, Protocol::Linux16] {
        kernels.push(("debian_bzimage", debian.image.clone(), Some(protocol)));
    }
    if let Some(tuned) = Recipe::read(&ctx, Variant::Fast)?.cached(&ctx) {
        kernels.push(("fast_vmlinux", tuned.vmlinux(), None));
    }
    let trials = kernels.iter().flat_map(|(name, kernel, protocol)| {
        MACHINES.map(|machine| trial(name, machine, kernel, *protocol, &initrd))
    });
    Ok(trials.collect())
}

fn trial(name: &str, on: &'static str, kernel: &Path, protocol: Option<Protocol>, initrd: &Path) -> Trial {
    let word = protocol.map_or("pvh", Protocol::word);
    let (kernel, initrd): (PathBuf, PathBuf) = (kernel.to_owned(), initrd.to_owned());
    suite::test(&format!("linux::{name}_{word} on {on}"), move || {
        let ctx = suite::context()?;
        let mut machine = machine(&ctx, on)?;
        (machine.kernel, machine.initrd) = (Some(kernel), Some(initrd));
        machine.cmdline = CMDLINE.to_owned();
        machine.args.extend(["-fw_cfg".to_owned(), format!("name={PROTOCOL},string={word}")]);
        let (ended, shown) = boot(&ctx, &machine)?;
        ensure!(ended.marks.contains(&Mark::INIT_START.0), "init never began: {shown}");
        ensure!(ended.status == Some(0), "init's status is {:?}: {shown}", ended.status);
        Ok(())
    })
}
