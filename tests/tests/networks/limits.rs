//! Rate limits of networks: four devices, each with another limit, and one without.

use tests::{Guest, took};

use super::DONE;

/// Bytes that go through a limit to bytes, and messages through one to packets.
const BYTES: u32 = 250_000;
const MESSAGES: u32 = 30;

/// Streams that a limit holds back in its direction, and messages to and fro, each of which is at least a packet.
pub fn guest([kernel, initrd]: [&str; 2]) -> Guest {
    // The bucket's contents go at once, and the last frame may be longer than what is left.
    let bytes = (f64::from(BYTES) - 8.0 * 1024.0 - 65_550.0) / (80.0 * 1024.0);
    let packets = (f64::from(MESSAGES) - 1.0) / 10.0;
    let script = "for n in 0 1 2 3 4; do tunctl -t lim$n >/dev/null; ip address add 10.1.$n.1/24 dev lim$n; \
        ip link set lim$n up; at=$at\\ tcp:10.1.$n.1:5000; done; \
        {wire} serve udp:10.1.0.1:5001 udp:10.1.3.1:5001 udp:10.1.4.1:5001 $at >/dev/null & exec \"$@\"";
    let guest = Guest::new("fast::limits")
        .within(&["sh", "-c", script, "sh"])
        .flag("kernel", kernel)
        .flag("initrd", initrd)
        .flag("cpus", "2");
    let limits =
        ["", ",tx-bandwidth=8K/100ms", ",rx-bandwidth=8K/100ms", ",tx-ops=1/100ms", ",rx-ops=1/100ms"];
    limits
        .iter()
        .enumerate()
        .fold(guest, |guest, (number, limit)| guest.flag("net", &format!("tap=lim{number}{limit}")))
        .shell(&format!(
            "{}for n in 0 1 2 3 4; do ifconfig eth$n 10.1.$n.2 netmask 255.255.255.0 up; done; \
             tcp() {{ wire call tcp:10.1.$1.1:5000 $2 $3; }}; \
             udp() {{ wire call udp:10.1.$1.1:5001 round 64 $2; }}; \
             for n in 1 2 3; do took free_sent tcp 0 give {BYTES}; took free_received tcp 0 take {BYTES}; \
             took free_there udp 0 {MESSAGES}; took free_back udp 0 {MESSAGES}; done; \
             took sent tcp 1 give {BYTES} & took received tcp 2 take {BYTES} & \
             took there udp 3 {MESSAGES} & took back udp 4 {MESSAGES} & wait; echo {DONE}",
            took::TOOK
        ))
        .look(move |report| {
            took::look(report, &[("sent", bytes), ("received", bytes), ("there", packets), ("back", packets)])
        })
        .says(DONE)
}
