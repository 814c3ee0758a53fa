//! Guests that drive a virtio device by hand: each request is rung for and answered by an interrupt, and each answer is looked
//! at.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::Guest;
use xtask::ctx::Ctx;
use xtask::lab::Lab;
use xtask::{built, guests};

use super::guests::tiny;

const GUESTS: [&str; 7] = ["block", "cfg", "console", "net", "pmem", "virtio", "vsock"];
/// Somebody at the socket `$0` sends back what comes to there, while the arguments are executed.
const ECHO: &str = "{wire} echo unix:$0 & peer=$!; until [ -S $0 ]; do kill -0 $peer || exit; sleep 0.05; done; \
    \"$@\"; status=$?; kill $peer 2>/dev/null; exit $status";
/// What the guest `console` says again and again.
const LINE: &str = "console: a line of 64 bytes, as many as a terminal gets at once";

/// All runs; adds to the lab what they need.
pub(crate) fn runs(ctx: &Ctx, lab: &mut Lab, place: &Path) -> Result<Vec<Guest>> {
    for name in GUESTS {
        lab.file(name, &guests::build(ctx, name)?);
    }
    lab.file("wire", &built::wire(ctx));
    let image = place.join("blocks");
    fs::write(&image, guests::disk(false))?;
    lab.file("blocks", &image);
    let mut runs = Vec::new();
    for transport in ["mmio", "pci"] {
        for machine in ["fast", "legacy"] {
            let name = format!("guest::virtio_{transport}_{machine}");
            let run = tiny(&name, "virtio").args(&["--rng"]).flag("machine", machine);
            let run = run.says("virtio: every request was answered").says("virtio: it works after a reset");
            runs.push(run.flag("transport", transport));
        }
        let others = [
            ("block", block as fn(&str) -> Guest),
            ("console", console),
            ("net", net),
            ("pmem", pmem),
            ("vsock", vsock),
        ];
        let run = |(guest, run): (&str, fn(&str) -> Guest)| run(&format!("guest::{guest}_{transport}"));
        runs.extend(others.into_iter().map(run).map(|run| run.flag("transport", transport)));
    }
    runs.push(tiny("guest::virtio_without", "virtio").says("virtio: there is no entropy device").exits(1));
    let window = tiny("guest::virtio_pci_window", "cfg").args(&["--rng"]).flag("transport", "pci");
    runs.push(window.says("cfg: all well"));
    Ok(runs)
}

/// With a copy of the disk, of this many MiB, that then has to have what the guest writes.
fn with_disk(name: &str, guest: &str, mib: usize) -> Guest {
    let copy = format!("cp {{blocks}} {{out}}/disk && truncate -s {mib}M {{out}}/disk && exec \"$@\"");
    tiny(name, guest).within(&["sh", "-c", &copy, "sh"]).look(|report| {
        let written = guests::disk(true);
        let disk = report.files.get("disk").and_then(|disk| disk.get(..written.len()));
        ensure!(disk == Some(&written), "the disk has not what was written");
        Ok(())
    })
}

fn block(name: &str) -> Guest {
    with_disk(name, "block", 1)
        .flag("disk", "path={out}/disk")
        .says("block: what was written is there")
        .says("block: every request was answered")
}

fn pmem(name: &str) -> Guest {
    with_disk(name, "pmem", 2).flag("pmem", "path={out}/disk").says("pmem: every flush was answered")
}

/// Each line is shown once.
fn console(name: &str) -> Guest {
    tiny(name, "console").args(&["--console-device", "virtio"]).says("console: every line was taken").look(
        |report| {
            let shown = String::from_utf8_lossy(&report.stdout);
            let lines = shown.lines().filter(|&shown| shown == LINE).count();
            ensure!(lines == 512, "{lines} lines are shown");
            Ok(())
        },
    )
}

/// Frames go to somebody who sends them back as they are, their lengths in front.
fn net(name: &str) -> Guest {
    tiny(name, "net")
        .within(&["sh", "-c", ECHO, "{out}/net"])
        .flag("net", "passt={out}/net")
        .says("net: every frame came back")
}

fn vsock(name: &str) -> Guest {
    tiny(name, "vsock")
        .within(&["sh", "-c", ECHO, "{out}/v_5000"])
        .flag("vsock", "cid=3,path={out}/v")
        .says("vsock: every message came back")
}
