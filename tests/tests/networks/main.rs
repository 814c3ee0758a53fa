//! Linux on networks and sockets: streams both ways through taps, passt and vsock, many at once, and resets with streams
//! open. A small program, `wire`, is at both ends and checks every byte.

mod back_pressure;
mod descriptors;
mod limits;
mod passt;
mod pauses;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use tests::{Guest, PORT, suite};
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;
use xtask::lab::Lab;
use xtask::{built, drivers};

/// What a workload says when it has come to its end.
const DONE: &str = "guest: done";
/// Kernel and initramfs.
const DEBIAN: [&str; 2] = ["{kernel}", "{initrd}"];
const FAST: [&str; 2] = ["{fast}", "{bare}"];
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
    let mut guests = vec![passt::guest("debian", DEBIAN)];
    for transport in ["mmio", "pci"] {
        guests.extend([tap, everything].map(|guest| guest("debian", transport, DEBIAN)));
    }
    if suite::fast(ctx, &mut lab)? {
        guests.extend(both_transports("fast", FAST));
        guests.push(tap_comes_back(FAST));
        guests.push(passt::guest("fast", FAST));
        guests.push(limits::guest(FAST));
        guests.push(descriptors::guest(FAST));
        guests.extend(["mmio", "pci"].map(|transport| back_pressure::guest(transport, FAST)));
        guests.extend(["mmio", "pci"].map(|transport| pauses::guest(transport, FAST)));
    }
    suite::guests(ctx, lab, guests)
}

/// The lab has Debian's kernel, an initramfs that loads its modules, and one for a kernel that needs none.
fn lab(ctx: &Ctx, place: &Path) -> Result<Lab> {
    let kernel = Kernel::debian(ctx)?;
    let wire = built::wire(ctx);
    let program = fs::read(&wire).with_context(|| format!("cannot read {}", wire.display()))?;
    let mut lab = suite::nested_lab(ctx)?;
    let all = drivers::of(["--disk", "--pmem", "--net", "--vsock", "--rng", "--port"]);
    for (name, modules) in [("initrd", all), ("bare", Vec::new())] {
        let mut cpio = suite::initramfs(ctx, &kernel, &modules)?;
        cpio.program("bin/wire", program.clone());
        let initrd = place.join(name);
        fs::write(&initrd, cpio.build()?)?;
        lab.file(name, &initrd);
    }
    let blank = place.join("blank");
    fs::write(&blank, vec![0; 8 << 20])?;
    lab.modules.push("tun".to_owned());
    passt::files(ctx, &mut lab)?;
    lab.file("pauser", &built::pauser(ctx));
    lab.file("blank", &blank);
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
        .flag("net", "tap=tap0,mac=02:00:00:00:00:02,mtu=1400")
        .flag("vsock", "cid=3,path={out}/v")
}

/// Defines `meet N`, which waits until the guest calls at port N, or is no more.
const MEET: &str = "meet() { {wire} wait unix:{out}/v_$1 & call=$!; \
    while kill -0 $call && kill -0 $jiffy; do sleep 0.1; done 2>/dev/null; }; ";

/// Ends the guest's wait for the lab.
const STOP: &str = "{wire} call unix:{out}/v:6000 round 1 0 >&2;";

/// What is in use by the guest: a second VM does not get it.
const TAKEN: &str = "for taken in '--net tap=tap0' '--vsock cid=4,path={out}/v'; do \
    {jiffy} run --kernel {wire} $taken >&2; echo lab: $? for $taken >&2; done; ";

/// In the lab: whether the frames to the guest (tx) and those of the guest (rx) were longer than its MTU, which streams are
/// where segmentation is left to who is behind the tap. The others are short.
const LONG: &str = "for way in tx rx; do set -- $(cd /sys/class/net/tap0/statistics; cat ${way}_bytes ${way}_packets); \
    [ $(($1 / $2)) -gt 1400 ] && echo lab: long $way >&2; done; ";

/// Streams, datagrams and half-closed connections through a tap, both ways at the same time.
fn tap(set: &str, transport: &str, boot: [&str; 2]) -> Guest {
    let guest = |name: &str, calls: &str| {
        linux(&format!("{set}::{transport}::{name}"), boot, calls).flag("transport", transport)
    };
    guest(
        "tap",
        &format!(
            "for what in 'give 3000000' 'take 2000000' 'round 64 100' 'many 8' half; do \
                     {{wire}} call tcp:10.0.0.2:5000 $what | sed 's/wire/lab/' >&2; done; {TAKEN} {LONG} {STOP}"
        ),
    )
    .shell(&format!(
        "{GUEST} for what in 'give 4000000' 'take 5000000' 'round 1400 50' half; do \
                 wire call tcp:10.0.0.1:5000 $what; done; wire call udp:10.0.0.1:5001 round 64 100; \
                 wire call vsock:2:5000 round 64 30; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; wire wait vsock:4294967295:6000 && echo guest: done"
    ))
    .says("02:00:00:00:00:02")
    .says("1400")
    .says("wire: give 4000000 ok")
    .says("wire: take 5000000 ok")
    .says("wire: round 1400 50 ok")
    .says("wire: half ok")
    .says("wire: round 64 100 ok")
    .says("wire: round 64 30 ok")
    .complains("lab: long tx")
    .complains("lab: long rx")
    .complains("--net tap0: ")
    .complains("lab: 125 for --net tap=tap0")
    .complains("is in use")
    .complains("lab: 125 for --vsock cid=4")
    .complains("lab: give 3000000 ok")
    .complains("lab: take 2000000 ok")
    .complains("lab: round 64 100 ok")
    .complains("lab: many 8 ok")
    .complains("lab: half ok")
    .says(DONE)
}

/// Writes random data to the device `$d`, `$n` pieces of it, and compares what it reads back without the guest's cache.
const SHUFFLE: &str = "for round in 1 2; do dd if=/tmp/data of=$d bs=64k count=$n conv=notrunc,fsync 2>/dev/null; \
    echo 3 > /proc/sys/vm/drop_caches; dd if=$d bs=64k count=$n 2>/dev/null | cmp -n $((n * 65536)) - /tmp/data || exit; done; \
    echo $d is as it was written;";

/// A guest with devices of all kinds, two CPUs, and two queues where there can be several.
fn full(name: &str, transport: &str, [kernel, initrd]: [&str; 2], tap: &str) -> Guest {
    Guest::new(name)
        .flag("kernel", kernel)
        .flag("initrd", initrd)
        .flag("cpus", "2")
        .flag("transport", transport)
        .flag("disk", "path={blank},overlay=tmp,queues=2")
        .flag("pmem", "path={blank},private")
        .flag("net", &format!("tap={tap},queues=2"))
        .flag("vsock", "cid=3,path={out}/v")
        .args(&["--rng"])
}

/// All devices busy at the same time.
fn everything(set: &str, transport: &str, boot: [&str; 2]) -> Guest {
    // `jiffy` makes the tap.
    let script = "\"$@\" & jiffy=$!; until ip address add 10.0.9.1/24 dev tap9 2>/dev/null; do \
        kill -0 $jiffy || exit; sleep 0.1; done; \
        {wire} serve tcp:10.0.9.1:5000 unix:{out}/v_5000 >/dev/null & wait $jiffy";
    full(&format!("{set}::{transport}::everything_at_once"), transport, boot, "tap9")
        .within(&["sh", "-c", script, "sh"])
        .flag("console-device", "virtio")
        .flag("port", "name=log,file={out}/log")
        .shell(&format!(
            "mdev -s; ip link set lo up; ifconfig eth0 10.0.9.2 netmask 255.255.255.0 up; \
             {PORT}; echo queues $(ls /sys/block/vda/mq | wc -l) $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l); \
             dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null; \
             (d=/dev/vda n=32; {SHUFFLE}) & (d=/dev/pmem0 n=16; {SHUFFLE}) & \
             (for what in 'give 1000000' 'take 1000000'; do wire call tcp:10.0.9.1:5000 $what; done) & \
             (for what in 'give 900000' 'take 900000'; do wire call vsock:2:5000 $what; done) & \
             (echo random $(dd if=/dev/hwrng bs=4096 count=8 iflag=fullblock 2>/dev/null | wc -c)) & \
             (seq 1 2000 > $p) & wait; echo guest: done"
        ))
        .says("queues 2 2")
        .says("/dev/vda is as it was written")
        .says("/dev/pmem0 is as it was written")
        .says("wire: give 1000000 ok")
        .says("wire: take 1000000 ok")
        .says("wire: give 900000 ok")
        .says("wire: take 900000 ok")
        .says("random 32768")
        .look(|report| {
            let log = report.files.iter().find(|(name, _)| name.ends_with("log")).map(|(_, bytes)| bytes);
            let expected: String = (1..=2000).map(|number| format!("{number}\n")).collect();
            ensure!(
                log.is_some_and(|log| String::from_utf8_lossy(log).replace('\r', "") == expected),
                "the port's file"
            );
            Ok(())
        })
        .says(DONE)
}

/// For a guest: waits until its link is up (1) or down (0), and says so.
fn carrier(state: u8) -> String {
    format!("until grep -q {state} /sys/class/net/eth0/carrier; do sleep 0.1; done; echo link {state}")
}

/// A tap that is deleted while the guest runs, and made again.
fn tap_comes_back(boot: [&str; 2]) -> Guest {
    let calls = "meet 6000; ip link delete tap0; meet 6001; \
        tunctl -t tap0 >/dev/null; ip address add 10.0.0.1/24 dev tap0; ip link set tap0 up;";
    let meet = |port: u16| format!("wire call vsock:2:{port} round 1 0 2>/dev/null");
    linux("fast::tap_comes_back", boot, &format!("{MEET}{calls}"))
        .shell(&format!(
            "{GUEST} {up}; {}; {down}; {}; {up}; wire call tcp:10.0.0.1:5000 take 1000000; echo guest: done",
            meet(6000),
            meet(6001),
            up = carrier(1),
            down = carrier(0),
        ))
        .says("link 0")
        .says("wire: take 1000000 ok")
        .says(DONE)
}

fn both_transports(set: &str, boot: [&str; 2]) -> Vec<Guest> {
    let mut all = Vec::new();
    for transport in ["mmio", "pci"] {
        let guest = |name: &str, calls: &str| {
            linux(&format!("{set}::{transport}::{name}"), boot, calls).flag("transport", transport)
        };
        all.push(tap(set, transport, boot));
        all.push(everything(set, transport, boot));
        all.push(
            guest(
                "vsock",
                &format!(
                    "for what in 'give 3000000' 'take 2000000' 'round 64 100' 'many 200' half; do \
                     {{wire}} call unix:{{out}}/v:5000 $what | sed 's/wire/lab/' >&2; done; {STOP}"
                ),
            )
            .shell(
                "wire serve vsock:4294967295:5000 >/dev/null & for what in 'give 4000000' 'take 5000000' \
                 'round 64 100' 'many 200' half; do wire call vsock:2:5000 $what; done; \
                 wire wait vsock:4294967295:6000 && echo guest: done",
            )
            .says("wire: give 4000000 ok")
            .says("wire: take 5000000 ok")
            .says("wire: round 64 100 ok")
            .says("wire: many 200 ok")
            .says("wire: half ok")
            .complains("lab: give 3000000 ok")
            .complains("lab: take 2000000 ok")
            .complains("lab: round 64 100 ok")
            .complains("lab: many 200 ok")
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
