//! A network without privileges: passt, by its Debian package, which dies and comes back.

use anyhow::Result;
use tests::Guest;
use xtask::ctx::Ctx;
use xtask::debs;
use xtask::lab::Lab;

use super::{DONE, MEET, carrier};

/// Gives the lab passt, and the C library that it is linked with.
pub fn files(ctx: &Ctx, lab: &mut Lab) -> Result<()> {
    let [passt, libc] = ["passt", "libc6"].map(|name| debs::get_from(ctx, "trixie", name));
    let libraries = libc?.path.join("usr/lib/x86_64-linux-gnu");
    lab.file("passt", &passt?.path.join("usr/bin/passt"))
        .file("loader", &libraries.join("ld-linux-x86-64.so.2"))
        .file("libc.so.6", &libraries.join("libc.so.6"));
    Ok(())
}

/// Starts passt, which needs a route out to take its guest's address from. It also wants to replace its root, which the
/// lab's initramfs cannot be: it gets one of its own. It is there when its socket listens, some time after that is made.
const PASST: &str = "passt() { unshare -m sh -c 'mkdir -p /root.passt; mount -t tmpfs none /root.passt; cd /root.passt; \
    for d in lab tmp proc dev; do mkdir $d; mount -o bind /$d $d; done; mount -o move . /; \
    exec chroot . {loader} --library-path $(dirname {loader}) {passt} -f -q -4 --runas 0 -t 5000 -s {out}/passt' & \
    passt=$!; until grep -q ' 00010000 .*{out}/passt' /proc/net/unix; do kill -0 $passt || exit; sleep 0.1; done; }; \
    ip link set lo up; tunctl -t tap0 >/dev/null; ip address add 10.0.0.1/24 dev tap0; ip link set tap0 up; \
    ip route add default via 10.0.0.2; \
    {wire} serve tcp:127.0.0.1:5002 unix:{out}/v_5000 >/dev/null & ";

/// Streams through passt, both ways, then through another one after the first has died. The guest has the lab's
/// address, and finds the lab's loopback behind its gateway.
pub fn guest(set: &str, [kernel, initrd]: [&str; 2]) -> Guest {
    let calls = |bytes: u32| {
        format!(
            "for what in 'give {bytes}' 'take {bytes}' half; do \
             {{wire}} call tcp:127.0.0.1:5000 $what | sed 's/wire/lab/' >&2; done"
        )
    };
    let script = format!(
        "{PASST} {MEET} passt; \"$@\" & jiffy=$!; meet 6000; {first}; \
         kill $passt; wait $passt; rm -f {{out}}/passt; meet 6001; \
         passt; meet 6002; {second}; {{wire}} serve unix:{{out}}/v_6003 >/dev/null & \
         wait $jiffy; code=$?; kill $passt; exit $code",
        first = calls(3_000_001),
        second = calls(3_000_002),
    );
    let streams = |bytes: u32| {
        format!(
            "for what in 'give {bytes}' 'take {bytes}' 'round 1400 50' half; do wire call tcp:10.0.0.2:5002 $what; done"
        )
    };
    let guest = Guest::new(&format!("{set}::passt"))
        .within(&["sh", "-c", &script, "sh"])
        .flag("kernel", kernel)
        .flag("initrd", initrd)
        .flag("net", "passt={out}/passt")
        .flag("vsock", "cid=3,path={out}/v")
        .shell(&format!(
            "ip link set lo up; ifconfig eth0 10.0.0.1 netmask 255.255.255.0 up; ip route add default via 10.0.0.2; \
             meet() {{ wire call vsock:2:$1 round 1 0 2>/dev/null; }}; \
             wire serve tcp:10.0.0.1:5000 >/dev/null & {first}; {up}; meet 6000; {down}; meet 6001; {up}; \
             {second}; meet 6002; until wire call vsock:2:6003 round 1 1; do :; done; echo guest: done",
            first = streams(4_000_001),
            second = streams(4_000_002),
            up = carrier(1),
            down = carrier(0),
        ))
        .says("link 0")
        .says("link 1")
        .says("wire: round 1400 50 ok")
        .says("wire: half ok")
        .complains("lab: half ok")
        .says(DONE);
    [1, 2].into_iter().fold(guest, |guest, round| {
        guest
            .says(&format!("wire: give 400000{round} ok"))
            .says(&format!("wire: take 400000{round} ok"))
            .complains(&format!("lab: give 300000{round} ok"))
            .complains(&format!("lab: take 300000{round} ok"))
    })
}
