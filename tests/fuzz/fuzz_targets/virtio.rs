//! The virtio core, its queues and both transports against a driver that does what the bytes say. The first byte
//! chooses the transport; afterwards the device has to work for a driver that starts anew.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::Entropy;
use vmm::devices::virtio::testing::{Nothing, Target};

/// Bytes that are used: some thirty steps.
const SCRIPT: usize = 160;

thread_local! {
    static TARGETS: RefCell<[Target; 3]> =
        RefCell::new([0, 1, 2].map(|kind| Target::new(Box::new(Entropy), kind)));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, script)) = data.split_first() else { return };
    TARGETS.with_borrow_mut(|targets| {
        let target = &mut targets[usize::from(kind % 3)];
        let driver = target.attack(&script[..script.len().min(SCRIPT)], &mut Nothing);
        assert_eq!(driver.request(0, &[], &[8]).written, 8);
        fuzz::bounded_descriptors();
        #[cfg(feature = "planted")]
        fuzz::plant(&[target.served, target.rested, script.len() > 40]);
    });
});
