//! Linux on networks and sockets: streams both ways through taps, passt and vsock, many at once, and resets with streams
//! open. A small program, `wire`, is at both ends and checks every byte.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use tests::{Guest, suite};
use xtask::built;
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;
use xtask::lab::Lab;

/// What a workload says when it has come to its end.
const DONE: &str = "guest: done";
/// What Debian's kernel needs.
const MODULES: [&str; 4] = ["virtio_mmio", "virtio_pci", "virtio_net", "vmw_vsock_virtio_transport"];
/// In the lab: a tap whose other end is the guest, and somebody who serves by it and behind the vsock device.
const LAB: &str = "tunctl -t tap0 >/dev/null; ip address add 10.0.0.1/24 dev tap0; ip link set tap0 up; \
    {wire} serve tcp:10.0.0.1:5000 udp:10.0.0.1:5001 unix:{out}/v_5000 >/dev/null & ";
/// In the guest: the other end of the tap, and somebody who serves.
const GUEST: &str = "ip link set lo up; ifconfig eth0 10.0.0.2 netmask 255.255.255.0 up; \
    wire serve tcp:10.0.0.2:5000 >/dev/null & ";

fn main() -> ExitCode {
    suite::run(trials)
}

fn trials(ctx: &Ctx, place: &Path) -> Result<Vec<Trial>> {
    let mut lab = lab(ctx, place)?;
    // Debian's kernel takes most of its time to boot; one guest shows that its modules find the device.
    let mut guests = vec![tap("debian", "mmio", ["{kernel}", "{initrd}"])];
    if suite::fast(ctx, &mut lab)? {
        guests.extend(both_transports("fast", ["{fast}", "{bare}"]));
    }
    suite::guests(ctx, lab, guests)
}

/// The lab has Debian's kernel, an initramfs that loads its modules, and one for a kernel that needs none.
fn lab(ctx: &Ctx, place: &Path) -> Result<Lab> {
    let kernel = Kernel::debian(ctx)?;
    let wire = built::wire(ctx);
    let program = fs::read(&wire).with_context(|| format!("cannot read {}", wire.display()))?;
    let mut lab = suite::nested_lab(ctx)?;
    for (name, modules) in [("initrd", MODULES.as_slice()), ("bare", &[])] {
        let mut cpio = suite::initramfs(ctx, &kernel, modules)?;
        cpio.program("bin/wire", program.clone());
        let initrd = place.join(name);
        fs::write(&initrd, cpio.build()?)?;
        lab.file(name, &initrd);
    }
    lab.modules.push("tun".to_owned());
    lab.file("kernel", &kernel.vmlinux(ctx)?).file("wire", &wire);
    Ok(lab)
}

/// A guest with a network and sockets, beside which `calls` go on in the lab. What these say goes to standard error: the
/// guest's console comes out byte by byte, and would mix with it.
fn linux(name: &str, [kernel, initrd]: [&str; 2], calls: &str) -> Guest {
    let script = format!("{LAB}\"$@\" & jiffy=$!; {calls} wait $jiffy");
    Guest::new(name)
        .within(&["sh", "-c", &script, "sh"])
        .flag("kernel", kernel)
        .flag("initrd", initrd)
        .flag("cpus", "2")
        .flag("net", "tap=tap0,mac=02:00:00:00:00:02")
        .flag("vsock", "cid=3,path={out}/v")
}

/// Ends the guest's wait for the lab.
const STOP: &str = "{wire} call unix:{out}/v:6000 round 1 0;";

/// Streams, datagrams and half-closed connections through a tap, both ways at the same time.
fn tap(set: &str, transport: &str, boot: [&str; 2]) -> Guest {
    let guest = |name: &str, calls: &str| {
        linux(&format!("{set}::{transport}::{name}"), boot, calls).flag("transport", transport)
    };
    guest(
        "tap",
        &format!(
            "for what in 'give 3000000' 'take 2000000' 'round 64 100' 'many 8' half; do \
                     {{wire}} call tcp:10.0.0.2:5000 $what | sed 's/wire/lab/' >&2; done; {STOP}"
        ),
    )
    .shell(&format!(
        "{GUEST} for what in 'give 4000000' 'take 5000000' 'round 1400 50' half; do \
                 wire call tcp:10.0.0.1:5000 $what; done; wire call udp:10.0.0.1:5001 round 64 100; \
                 cat /sys/class/net/eth0/address; wire wait vsock:4294967295:6000 && echo guest: done"
    ))
    .says("02:00:00:00:00:02")
    .says("wire: give 4000000 ok")
    .says("wire: take 5000000 ok")
    .says("wire: round 1400 50 ok")
    .says("wire: half ok")
    .says("wire: round 64 100 ok")
    .complains("lab: give 3000000 ok")
    .complains("lab: take 2000000 ok")
    .complains("lab: round 64 100 ok")
    .complains("lab: many 8 ok")
    .complains("lab: half ok")
    .says(DONE)
}

fn both_transports(set: &str, boot: [&str; 2]) -> Vec<Guest> {
    let mut all = Vec::new();
    for transport in ["mmio", "pci"] {
        let guest = |name: &str, calls: &str| {
            linux(&format!("{set}::{transport}::{name}"), boot, calls).flag("transport", transport)
        };
        all.push(tap(set, transport, boot));
        all.push(
            guest(
                "vsock",
                &format!(
                    "for what in 'give 3000000' 'take 2000000' 'round 64 100' 'many 12' half; do \
                     {{wire}} call unix:{{out}}/v:5000 $what | sed 's/wire/lab/' >&2; done; {STOP}"
                ),
            )
            .shell(
                "wire serve vsock:4294967295:5000 >/dev/null & for what in 'give 4000000' 'take 5000000' \
                 'round 64 100' 'many 10' half; do wire call vsock:2:5000 $what; done; \
                 wire wait vsock:4294967295:6000 && echo guest: done",
            )
            .says("wire: give 4000000 ok")
            .says("wire: take 5000000 ok")
            .says("wire: round 64 100 ok")
            .says("wire: many 10 ok")
            .says("wire: half ok")
            .complains("lab: give 3000000 ok")
            .complains("lab: take 2000000 ok")
            .complains("lab: round 64 100 ok")
            .complains("lab: many 12 ok")
            .complains("lab: half ok")
            .says(DONE),
        );
    }
    all.push(
        linux(&format!("{set}::reset"), boot, "")
            .shell(&format!(
                "{GUEST} wire call vsock:2:5000 take 4000000000 2>/dev/null & \
                 wire call tcp:10.0.0.1:5000 take 4000000000 2>/dev/null & sleep 1; cd /sys/bus/virtio/drivers; \
                 for driver in vmw_vsock_virtio_transport virtio_net; do \
                 device=$(basename $(ls -d $driver/virtio*)); \
                 echo $device > $driver/unbind && echo $device > $driver/bind && echo $driver again; done; \
                 wire call vsock:2:5000 round 64 10; ifconfig eth0 10.0.0.2 netmask 255.255.255.0 up; \
                 wire call tcp:10.0.0.1:5000 take 1000000; echo guest: done"
            ))
            .says("vmw_vsock_virtio_transport again")
            .says("virtio_net again")
            .says("wire: round 64 10 ok")
            .says("wire: take 1000000 ok")
            .says(DONE),
    );
    all
}
