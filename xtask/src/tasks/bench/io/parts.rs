//! The kinds of devices, and the loads on them.

/// A load and what it may take.
#[derive(Debug)]
pub(super) struct Case {
    /// What the load is told to do: the last number is how often, or how many KiB.
    pub id: &'static str,
    /// What that is.
    pub label: &'static str,
    /// Thousands of instructions on mmio and on pci that are to be reached.
    pub target: Option<(f64, f64)>,
}

/// A kind of device. Lines are for the shell, and `CASE` in them stands for a load's name.
#[derive(Debug)]
pub(super) struct Part {
    /// Its name.
    pub name: &'static str,
    /// The loads.
    pub cases: &'static [Case],
    /// In the lab, before anything is started.
    pub before: &'static str,
    /// The load in the lab, without a VM.
    pub limit: &'static str,
    /// The load without a VM and without a device, where that is something else.
    pub loopback: Option<&'static str>,
    /// The load in the guest.
    pub guest: &'static str,
    /// The device for jiffy.
    pub jiffy: [&'static str; 2],
    /// The device for QEMU.
    pub qemu: Qemu,
}

/// QEMU's words for a device, in which `BUS` stands for what names of its devices end in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Qemu {
    /// Of its microvm.
    Microvm(&'static [&'static str]),
    /// Of its q35, by PCI: microvm has no place for memory that is not RAM.
    Q35(&'static [&'static str]),
}

const fn case(id: &'static str, label: &'static str, target: Option<(f64, f64)>) -> Case {
    Case { id, label, target }
}

/// Their names.
pub(super) const NAMES: [&str; 8] =
    [NATIVE, BOOT, PARTS[0].name, PARTS[1].name, PARTS[2].name, PARTS[3].name, PARTS[4].name, PARTS[5].name];
/// Beside them: what devices add to boots.
pub(super) const BOOT: &str = "boot";
/// And wall times of a small guest.
pub(super) const NATIVE: &str = "native";

/// Between the lab and a network namespace, each behind a tap: `wire` brings frames from one tap to the other, as a VMM does
/// between a tap and its guest.
const TAPS: &str = "{wire} join tap0 tap1 & cable=$!; unshare -n sleep 1000 & far=$!; \
     until ip link set tap1 netns $far 2>/dev/null; do :; done; \
     there() { nsenter -t $far -n \"$@\"; }; there ip address add 10.0.0.2/24 dev tap1; there ip link set tap1 up; \
     there {wire} measure tcp:10.0.0.1:5000 CASE; kill $cable $far";

/// A file, read until Linux has nothing more to note of its pages: the first reads of each make it an active one, and who
/// comes late in the lab would be spared what others did.
const FILE: &str = "test -f /tmp/disk || { dd if=/dev/zero of=/tmp/disk bs=1048576 count=64 2>/dev/null; \
     for _ in 1 2 3; do cat /tmp/disk >/dev/null; done; }";

/// All of them.
pub(super) const PARTS: [Part; 6] = [
    Part {
        name: "block",
        cases: &[
            case("read:4096:1:200", "4 KiB read, depth 1", Some((40.0, 30.0))),
            case("write:4096:1:200", "4 KiB write, depth 1", None),
            case("read:4096:32:640", "4 KiB read, depth 32", Some((11.0, 11.0))),
            case("write:4096:32:640", "4 KiB write, depth 32", None),
            case("sync:4096:1:300", "4 KiB write + fdatasync", None),
            case("read:1048576:1:8", "1 MiB read, scattered", Some((800.0, 800.0))),
        ],
        before: FILE,
        limit: "{io-load} /tmp/disk CASE",
        loopback: None,
        guest: "io-load /dev/vda CASE",
        jiffy: ["--disk", "path=/tmp/disk"],
        qemu: Qemu::Microvm(&[
            "-drive",
            "file=/tmp/disk,format=raw,if=none,id=disk",
            "-device",
            "virtio-blk-BUS,drive=disk",
        ]),
    },
    Part {
        name: "net",
        cases: &[
            case("round:64:150", "TCP round trip, 64 bytes", Some((75.0, 75.0))),
            case("give:4096", "stream to the host, KiB", None),
            case("take:4096", "stream to the guest, KiB", None),
        ],
        before: "tunctl -t tap0 >/dev/null 2>&1; ip address add 10.0.0.1/24 dev tap0 2>/dev/null; ip link set tap0 up; \
                 ip link set lo up; {wire} serve tcp:0.0.0.0:5000 >/dev/null &",
        limit: TAPS,
        loopback: Some("{wire} measure tcp:127.0.0.1:5000 CASE"),
        guest: "ifconfig eth0 10.0.0.2 netmask 255.255.255.0 up; wire measure tcp:10.0.0.1:5000 CASE",
        jiffy: ["--net", "tap=tap0,mac=02:00:00:00:00:02"],
        qemu: Qemu::Microvm(&[
            "-netdev",
            "tap,id=net,ifname=tap0,script=no,downscript=no",
            "-device",
            "virtio-net-BUS,netdev=net,mac=02:00:00:00:00:02",
        ]),
    },
    Part {
        name: "vsock",
        cases: &[
            case("round:64:150", "round trip, 64 bytes", Some((70.0, 70.0))),
            case("give:4096", "stream to the host, KiB", None),
            case("take:4096", "stream to the guest, KiB", None),
        ],
        before: "rm -f /tmp/v*; {wire} serve unix:/tmp/v_5000 vsock:4294967295:5000 >/dev/null &",
        limit: "{wire} measure unix:/tmp/v_5000 CASE",
        loopback: None,
        guest: "wire measure vsock:2:5000 CASE",
        jiffy: ["--vsock", "cid=3,path=/tmp/v"],
        qemu: Qemu::Microvm(&["-device", "vhost-vsock-BUS,guest-cid=3"]),
    },
    Part {
        name: "console",
        cases: &[case("put:64:1:150", "64 bytes to a port", None)],
        before: "rm -f /tmp/port; touch /tmp/port",
        limit: "{io-load} /tmp/port CASE",
        loopback: None,
        guest: "until [ -e /dev/vport0p1 ]; do sleep 0.1; done; io-load /dev/vport0p1 CASE",
        jiffy: ["--port", "name=log,file=/tmp/port"],
        qemu: Qemu::Microvm(&[
            "-device",
            "virtio-serial-BUS",
            "-chardev",
            "file,id=port,path=/tmp/port",
            "-device",
            "virtserialport,chardev=port,name=log",
        ]),
    },
    Part {
        name: "entropy",
        cases: &[case("get:64:1:600", "64 bytes of entropy", None)],
        before: "",
        limit: "{io-load} /dev/urandom CASE",
        loopback: None,
        guest: "io-load /dev/hwrng CASE",
        jiffy: ["--rng", ""],
        qemu: Qemu::Microvm(&[
            "-object",
            "rng-random,filename=/dev/urandom,id=entropy",
            "-device",
            "virtio-rng-BUS,rng=entropy",
        ]),
    },
    Part {
        name: "pmem",
        cases: &[
            case("read:4096:1:200", "4 KiB read", None),
            case("sync:4096:1:200", "4 KiB write + fdatasync", None),
        ],
        before: FILE,
        limit: "{io-load} /tmp/disk CASE",
        loopback: None,
        guest: "until [ -e /dev/pmem0 ]; do sleep 0.1; done; io-load /dev/pmem0 CASE",
        jiffy: ["--pmem", "path=/tmp/disk"],
        qemu: Qemu::Q35(&[
            "-object",
            "memory-backend-file,id=file,share=on,mem-path=/tmp/disk,size=64M",
            "-device",
            "virtio-pmem-BUS,memdev=file",
        ]),
    },
];
