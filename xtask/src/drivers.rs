//! Debian's drivers, which are modules, for the devices that `jiffy` makes.

/// By flags that make a device.
const DRIVERS: [(&[&str], &[&str]); 6] = [
    (&["--rng"], &["virtio_rng"]),
    (&["--disk"], &["virtio_blk"]),
    (&["--pmem"], &["virtio_pmem", "nd_pmem"]),
    (&["--net"], &["virtio_net"]),
    (&["--vsock"], &["vmw_vsock_virtio_transport"]),
    (&["--console-device", "--port"], &["virtio_console"]),
];

/// What Debian's kernel has to load for the devices that `jiffy` is to make, in the order in which it does so.
#[must_use]
pub fn of<'w>(jiffy: impl IntoIterator<Item = &'w str>) -> Vec<&'static str> {
    let words: Vec<&str> = jiffy.into_iter().collect();
    let is_given = |flag: &&str| {
        let is_it = |word: &&str| {
            word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        words.iter().any(is_it)
    };
    let wanted = DRIVERS.iter().filter(|(flags, _)| flags.iter().any(is_given));
    let drivers: Vec<_> = wanted.flat_map(|(_, drivers)| drivers.iter().copied()).collect();
    if drivers.is_empty() { drivers } else { [&["virtio_mmio", "virtio_pci"][..], &drivers].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_devices() {
        assert!(of(["--memory", "1G", "--rngs"]).is_empty());
        let found = of(["--disk=path=x", "--disk", "path=y", "--rng"]);
        assert_eq!(found, ["virtio_mmio", "virtio_pci", "virtio_rng", "virtio_blk"]);
    }
}
