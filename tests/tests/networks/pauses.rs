//! A guest that is paused and resumed from outside while its disk, network and sockets are busy.

use tests::Guest;

use super::{DONE, MEET, SHUFFLE, full};

/// Once all are busy (the guest says so at port 6000), the guest is paused again and again. After a hundred times it hears at
/// port 6001 that this is enough; it checks all that it does.
const SCRIPT: &str = "shift; {pauser} {out}/busy \"$@\" 2>{out}/said & jiffy=$!; \
    until ip address add 10.0.8.1/24 dev tap8 2>/dev/null; do kill -0 $jiffy || break; sleep 0.1; done; \
    {wire} serve tcp:10.0.8.1:5000 unix:{out}/v_5000 >/dev/null & meet 6000; touch {out}/busy; \
    until grep -q pauses {out}/said; do kill -0 $jiffy || break; sleep 0.1; done; \
    {wire} serve unix:{out}/v_6001 >/dev/null & wait $jiffy; code=$?; cat {out}/said >&2; exit $code";

pub fn guest(transport: &str, boot: [&str; 2]) -> Guest {
    full(&format!("fast::{transport}::paused_under_load"), transport, boot, "tap8")
        .within(&["sh", "-c", &format!("{MEET}{SCRIPT}"), "sh"])
        .shell(&format!(
            "mdev -s; ip link set lo up; ifconfig eth0 10.0.8.2 netmask 255.255.255.0 up; \
             dd if=/dev/urandom of=/tmp/data bs=64k count=4 2>/dev/null; \
             disk() {{ d=/dev/vda n=4; {SHUFFLE} }}; pmem() {{ d=/dev/pmem0 n=4; {SHUFFLE} }}; \
             net() {{ wire call tcp:10.0.8.1:5000 give 100000 && wire call tcp:10.0.8.1:5000 take 100000; }}; \
             vsock() {{ wire call vsock:2:5000 give 100000 && wire call vsock:2:5000 take 100000; }}; \
             random() {{ dd if=/dev/hwrng bs=512 count=1 2>/dev/null; }}; \
             busy() {{ until [ -f /tmp/enough ]; do $1 >/dev/null || exit; done; $1 >/dev/null && echo $1 all right; }}; \
             busy disk & busy pmem & busy net & busy vsock & busy random & \
             wire call vsock:2:6000 round 1 0 2>/dev/null; \
             until wire call vsock:2:6001 round 1 1 2>/dev/null; do :; done; touch /tmp/enough; wait; echo guest: done"
        ))
        .says("disk all right")
        .says("pmem all right")
        .says("net all right")
        .says("vsock all right")
        .says("random all right")
        .complains("pauser: 100 pauses")
        .says(DONE)
}
