//! Rate limits of disks: to bytes, to requests, and with bursts.

use tests::{Guest, took};

use super::DONE;

/// As much on a disk without limits as on two with them; and what would take half an hour but for its bursts.
pub fn guest() -> Guest {
    // A bucket's contents go at once, and the last request may be longer than what is left in it.
    const BYTES: f64 = (512.0 - 32.0 - 64.0) / 320.0;
    const REQUESTS: f64 = (60.0 - 2.0) / 20.0;
    Guest::new("fast::limits")
        .flag("kernel", "{fast}")
        .flag("initrd", "{bare}")
        .flag("disk", "path={blank},overlay=tmp")
        .flag("disk", "path={blank},overlay=tmp,bandwidth=32K/100ms")
        .flag("disk", "path={blank},overlay=tmp,ops=2/100ms")
        .flag("disk", "path={blank},overlay=tmp,bandwidth=1K+4M,ops=1/1s+1K")
        .shell(&format!(
            "{} mdev -s; put() {{ dd if=/dev/zero of=/dev/$1 bs=$2 count=$3 oflag=direct; }}; \
             get() {{ dd if=/dev/$1 of=/dev/null bs=$2 count=$3 iflag=direct; }}; \
             for i in 1 2 3; do took free_written put vda 64k 8; took free_read get vda 64k 8; \
             took free_requests get vda 4k 60; done; \
             (took written put vdb 64k 8; took read get vdb 64k 8) & took requests get vdc 4k 60 & \
             (get vdd 64k 32 2>/dev/null && echo all at once) & wait; echo {DONE}",
            took::TOOK
        ))
        .look(|report| took::look(report, &[("written", BYTES), ("read", BYTES), ("requests", REQUESTS)]))
        .says("all at once")
        .says(DONE)
}
