//! A tap with two pairs of queues that is handed over as descriptors.

use tests::Guest;

use super::DONE;

pub fn guest([kernel, initrd]: [&str; 2]) -> Guest {
    let script = "{wire} tap fds 2 \"$@\" & jiffy=$!; until ip address add 10.0.7.1/24 dev fds 2>/dev/null; do \
        kill -0 $jiffy || exit; sleep 0.1; done; {wire} serve tcp:10.0.7.1:5000 >/dev/null & wait $jiffy";
    Guest::new("fast::tap_by_descriptors")
        .within(&["sh", "-c", script, "sh"])
        .flag("kernel", kernel)
        .flag("initrd", initrd)
        .flag("cpus", "2")
        .flag("net", "tap=fd:*")
        .shell(
            "ifconfig eth0 10.0.7.2 netmask 255.255.255.0 up; \
             echo queues $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l); \
             for what in 'give 2000000' 'take 2000001' 'many 20' half; do \
             wire call tcp:10.0.7.1:5000 $what; done; echo guest: done",
        )
        .says("queues 2")
        .says("wire: give 2000000 ok")
        .says("wire: take 2000001 ok")
        .says("wire: many 20 ok")
        .says("wire: half ok")
        .says(DONE)
}
