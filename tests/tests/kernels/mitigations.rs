//! Jiffy's kernels are built with plain returns and rewrite them for CPUs that need it. Here they run on CPUs of several kinds,
//! as QEMU emulates them; the text that runs is read back, site by site; and what the kernel says of the CPU's weaknesses
//! is what Debian's kernel of the same version says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use abi::init_config::Directive;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use tests::suite;
use xtask::ctx::Ctx;
use xtask::lab::qemu::{Input, Machine};
use xtask::profile::Symbols;
use xtask::tuned::{self, Tuned};
use xtask::{built, initramfs};

use super::qmp::Qmp;

/// Long enough for any machine on a slow and busy host.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often Debian's kernel is booted, at most.
const TRIES: usize = 4;
/// As in the suite `firmware`: a timer under emulation cannot be calibrated, nor tested, on a busy host.
const CMDLINE: &str =
    "console=ttyS0 quiet loglevel=3 panic=-1 cryptomgr.notests no_timer_check nolapic_timer nokaslr";
/// What the guest shows, and what it then says.
const SHOW: &str = "cd /sys/devices/system/cpu/vulnerabilities && grep . *; echo all shown; sleep 600";
const SHOWN: &str = "all shown";
/// The instruction (`C3`), with the `INT3` behind it that stops straight-line speculation.
const RET: &str = "RET";

/// What a CPU needs of a return.
#[derive(Clone, Copy, Debug)]
enum Returns {
    /// `RET` everywhere.
    Plain,
    /// A jump to this thunk everywhere.
    Thunk(&'static str),
    /// A jump to this thunk where the return lies in the lower half of a cache line (Linux,
    /// `Documentation/admin-guide/hw-vuln/indirect-target-selection.rst`).
    ThunkInLowerHalves(&'static str),
}

/// QEMU's CPUs: Zen 1, Zen 3, one of Intel's that has ITS, and one that Linux knows no weakness of.
const CPUS: [(&str, Returns); 4] = [
    ("EPYC-v1", Returns::Thunk("srso_return_thunk")),
    ("EPYC-Milan-v1", Returns::Thunk("srso_alias_return_thunk")),
    ("Skylake-Server-v4", Returns::ThunkInLowerHalves("its_return_thunk")),
    ("max", Returns::Plain),
];

pub fn trials(ctx: &Ctx, tuned: &Tuned, place: &Path) -> Result<Vec<Trial>> {
    let initrd = place.join("vulnerabilities");
    let config = [Directive::Exec("/bin/sh"), Directive::Arg("-c"), Directive::Arg(SHOW)];
    let mut cpio = initramfs::with_init(built::INIT.read(ctx)?, &config)?;
    initramfs::add_busybox(&mut cpio, ctx)?;
    fs::write(&initrd, cpio.build()?)?;
    let trials = CPUS.map(|(cpu, returns)| {
        let (tuned, initrd, place) = (tuned.clone(), initrd.clone(), place.to_owned());
        let name = format!("{}::mitigations::{cpu}", tuned.variant);
        suite::test(&name, move || check(cpu, returns, &tuned, &initrd, &place))
    });
    Ok(trials.into())
}

fn check(cpu: &str, returns: Returns, tuned: &Tuned, initrd: &Path, place: &Path) -> Result<()> {
    let ctx = suite::context()?;
    let kernel = Symbols::of(&tuned.vmlinux())?;
    let text = address(&kernel, "_text")?..address(&kernel, "_etext")?;
    let mut running = Vec::new();
    let ours = boot(&ctx, cpu, tuned.vmlinux(), initrd, |qmp| {
        let dump = place.join(format!("{}-{cpu}", tuned.variant));
        let from = kernel.physical(text.start).context("the kernel's text is in no segment")?;
        qmp.execute("pmemsave", &json!({ "val": from, "size": text.end - text.start, "filename": dump }))?;
        running = fs::read(&dump)?;
        Ok(())
    })?;
    let (mut plain, mut jumps) = (0, 0);
    for site in sites(&kernel)?.into_iter().filter(|site| text.contains(site)) {
        let wanted = match returns {
            Returns::Plain => RET,
            Returns::Thunk(thunk) => thunk,
            Returns::ThunkInLowerHalves(thunk) if site & 0x20 == 0 => thunk,
            Returns::ThunkInLowerHalves(_) => RET,
        };
        let at = usize::try_from(site - text.start)?;
        let found = instruction(&kernel, site, running.get(at..).unwrap_or_default());
        let function = kernel.function(site).unwrap_or_default();
        // The trampoline of a static call returns only as long as there is nothing to call.
        let calls = function.starts_with("__SCT__") && found.is_some_and(|found| found != RET);
        ensure!(
            found == Some(wanted) || calls,
            "the return in {function}, at {site:#x}, is {found:?}, not {wanted:?}"
        );
        *if wanted == RET { &mut plain } else { &mut jumps } += 1;
    }
    println!("{cpu}: {plain} returns are plain, {jumps} are jumps to a thunk");
    ensure!(plain + jumps > 20_000, "{} returns cannot be all of a kernel's", plain + jumps);

    let debian = tuned::debian(&ctx)?;
    let vmlinux = debian.vmlinux(&ctx)?;
    // Debian's kernel is not what is tested, and under emulation it stalls or panics now and then.
    let mut tries = (0..TRIES).map(|_| boot(&ctx, cpu, vmlinux.clone(), initrd, |_| Ok(())));
    let theirs = tries.find_map(Result::ok).context("Debian's kernel has not shown all in any boot")?;
    ensure!(ours == theirs, "it says {ours:#?}\nwhere Debian's {} says {theirs:#?}", debian.release);
    Ok(())
}

/// Boots a kernel, does `then` when it runs, and returns what it says of the CPU's weaknesses, by their names.
fn boot(
    ctx: &Ctx,
    cpu: &str,
    kernel: PathBuf,
    initrd: &Path,
    then: impl FnOnce(&mut Qmp) -> Result<()>,
) -> Result<BTreeMap<String, String>> {
    let place = tempfile::tempdir()?;
    let socket = place.path().join("qmp");
    // Without ACPI: with it, microvm has no timer by which a Linux under emulation could calibrate its clock.
    let mut machine = Machine::new("microvm,acpi=off,rtc=on", kernel, initrd.to_owned(), CMDLINE);
    machine.cpu = Some(cpu.to_owned());
    machine.args = vec!["-qmp".to_owned(), format!("unix:{},server=on,wait=off", socket.display())];
    let (mut console, mut then, mut done) = (Vec::new(), Some(then), Ok(()));
    machine.boot(ctx, Input::None, DEADLINE, |bytes| {
        console.extend_from_slice(bytes);
        let shown = String::from_utf8_lossy(&console).contains(SHOWN);
        if shown && let Some(then) = then.take() {
            done = Qmp::connect(&socket).and_then(|mut qmp| then(&mut qmp));
        }
        !shown
    })?;
    done?;
    let console = String::from_utf8_lossy(&console);
    ensure!(then.is_none(), "it ended before it had shown all: {console}");
    let lines = console.lines().filter_map(|line| line.trim_end().split_once(':'));
    // What that one says is what KVM does for guests' sake, and only Debian's kernel has a KVM to do it.
    let lines = lines.filter(|(name, _)| *name != "itlb_multihit");
    Ok(lines.map(|(name, state)| (name.to_owned(), state.to_owned())).collect())
}

/// The addresses of the kernel's returns: a list of offsets, each from its own place, that objtool has made.
fn sites(kernel: &Symbols) -> Result<Vec<u64>> {
    let (start, end) = (address(kernel, "__return_sites")?, address(kernel, "__return_sites_end")?);
    let bytes = kernel.bytes(start).and_then(|rest| rest.get(..usize::try_from(end - start).ok()?));
    let (offsets, _) = bytes.context("the list of returns is in no segment")?.as_chunks();
    let places = (start..end).step_by(size_of::<i32>()).zip(offsets);
    Ok(places.map(|(place, offset)| place.wrapping_add_signed(i32::from_le_bytes(*offset).into())).collect())
}

/// What is there in place of a return: [`RET`], or the function that is jumped to.
fn instruction<'a>(kernel: &'a Symbols, site: u64, bytes: &[u8]) -> Option<&'a str> {
    match *bytes {
        [0xc3, 0xcc, ..] => Some(RET),
        [0xe9, a, b, c, d, ..] => {
            kernel.starts((site + 5).wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into()))
        }
        _ => None,
    }
}

fn address(kernel: &Symbols, name: &str) -> Result<u64> {
    kernel.address(name).with_context(|| format!("the kernel has no symbol {name}"))
}
