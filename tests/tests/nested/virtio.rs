//! Devices that a guest meets in every machine that asks for them: entropy and console, on both transports, with
//! Debian's drivers, which are modules.

use anyhow::{Result, ensure};
use tests::{Guest, PORT};

use super::{DONE, contains, linux};

/// Debian's modules for what is here; the rest they depend on.
pub const MODULES: [&str; 4] = ["virtio_mmio", "virtio_pci", "virtio_rng", "virtio_console"];

const LOAD: &str = "for m in virtio_mmio virtio_pci virtio_rng virtio_console; do modprobe $m; done";

pub fn guests() -> Vec<Guest> {
    ["mmio", "pci"].into_iter().flat_map(|transport| [entropy(transport), console(transport)]).collect()
}

fn entropy(transport: &str) -> Guest {
    linux(&format!("virtio::entropy_{transport}"))
        .args(&["--rng"])
        .flag("transport", transport)
        .shell(&format!(
            "{LOAD}; cat /sys/class/misc/hw_random/rng_current; \
             dd if=/dev/hwrng bs=4096 count=4 iflag=fullblock | sha1sum | wc -w; \
             dd if=/dev/hwrng bs=64 count=1 | tr -d '\\0' | wc -c; echo guest: done"
        ))
        .says("virtio_rng.0")
        .says("2")
        .says(DONE)
        .look(|report| {
            let shown = String::from_utf8_lossy(&report.stdout);
            let bytes = shown.lines().filter_map(|line| line.trim().parse::<u32>().ok()).max();
            ensure!(bytes.is_some_and(|bytes| bytes > 32), "64 bytes of which {bytes:?} are not zero");
            Ok(())
        })
}

/// The kernel keeps its own console on the serial port; what the workload says goes by hvc0.
fn console(transport: &str) -> Guest {
    linux(&format!("virtio::console_{transport}"))
        .flag("console-device", "virtio")
        .flag("port", "name=log,file={out}/log")
        .flag("transport", transport)
        .shell(&format!(
            "{LOAD}; {PORT}; echo by hvc0 > /dev/hvc0; seq 1 500 > /dev/hvc0; echo to the port > $p; \
             echo guest: done"
        ))
        .says("by hvc0")
        .says("500")
        .says(DONE)
        .look(|report| -> Result<()> {
            let log = report.files.iter().find(|(name, _)| name.ends_with("log"));
            ensure!(log.is_some(), "no file: {:?}", report.files.keys());
            contains(log.map_or(&[], |(_, bytes)| bytes), "to the port")
        })
}
