//! `cargo xtask run` with devices: the guest's root is a disk, it has a network and a vsock to the host, and on its console is
//! what it says.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use tests::suite;
use xtask::built;
use xtask::ctx::Ctx;
use xtask::images::{self, FileSystem};

/// Seconds: long enough for a lab on a slow and busy host.
const DEADLINE: &str = "300";
/// Nobody listens at the host's side of the vsock, which the guest is told by it.
const SCRIPT: &str = "grep ' / ext4 rw' /proc/mounts | cut -d' ' -f1; ifconfig eth0 10.0.0.2; \
    ping -c 1 -W 60 10.0.0.1 | grep -o '1 packets received'; /wire knock vsock:2:1 2>&1 | grep -o 'reset by peer'; \
    touch /written && sync && exit 7";
const SHOWN: [&str; 3] = ["/dev/root", "1 packets received", "reset by peer"];

pub fn trials(place: &Path) -> Vec<Trial> {
    let image = place.join("root");
    vec![suite::test("fast::run_with_devices", move || run(&suite::context()?, &image))]
}

fn run(ctx: &Ctx, image: &Path) -> Result<()> {
    images::system(ctx, FileSystem::Ext4, 16, &[("wire", &built::wire(ctx))], image)?;
    let cmdline = format!(
        "console=ttyS0 quiet loglevel=3 panic=-1 root=/dev/vda rw init=/sbin/init -- /bin/sh -c \"{SCRIPT}\""
    );
    let disk = format!("path={},overlay=tmp", image.display());
    let output = ctx
        .cargo()
        .args(["xtask", "run", "--kernel", "fast", "--deadline", DEADLINE, "--"])
        .args(["--disk", &disk, "--net", "tap=tap0", "--vsock", "cid=3,path=/tmp/vsock"])
        .args(["--cmdline", &cmdline])
        .current_dir(&ctx.root)
        .output()?;
    let shown = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    ensure!(output.status.code() == Some(7), "it ended with {}:\n{shown}\n{said}", output.status);
    // The last word is the kernel's, which no log level keeps off a console.
    let Some((last, lines)) = lines.split_last() else { bail!("an empty console:\n{said}") };
    ensure!(
        lines == SHOWN && last.ends_with("reboot: Power down"),
        "the console shows something else:\n{shown}\n{said}"
    );
    ensure!(said.contains("boot timeline"), "there is no timeline:\n{said}");
    Ok(())
}
