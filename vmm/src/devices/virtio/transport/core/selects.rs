//! What the driver has selected for the registers that stand for several (4.1.4.3, 4.2.2).

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use virtio_queue::QueueT;

use super::{Core, Inner};

/// The registers that select. A driver uses them one access after the other.
#[derive(Debug, Default)]
pub struct Selects {
    device_features: AtomicU32,
    driver_features: AtomicU32,
    queue: AtomicU16,
}

/// What of them goes into a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedSelects {
    device_features: u32,
    driver_features: u32,
    queue: u16,
}

impl Core {
    /// What the driver has selected.
    #[must_use]
    pub fn selects(&self) -> &Selects {
        &self.selects
    }

    /// The driver selects the queue whose registers it means; there need be no such queue.
    pub fn select_queue(&self, queue: u16) {
        let inner = &mut *self.inner();
        self.selects.queue.store(queue, Ordering::Relaxed);
        self.show_queue(inner);
    }

    /// The driver selects which half of the features offered it reads.
    pub fn select_device_features(&self, half: u32) {
        let _inner = self.inner();
        self.selects.device_features.store(half, Ordering::Relaxed);
        self.show_features();
    }

    /// Shows the queue that is selected.
    pub(super) fn show_queue(&self, inner: &mut Inner) {
        let queue = inner.queues.get_mut(usize::from(self.selects.queue()));
        let (max_size, ready) = queue.map_or_else(Default::default, |queue| {
            let ring = queue.ring();
            (ring.max_size(), ring.ready())
        });
        self.transport.show_queue(max_size, ready);
    }

    /// Shows the features that are selected.
    pub(super) fn show_features(&self) {
        self.transport.show_features(self.device_features(self.selects.device_features()));
    }
}

impl Selects {
    /// Which half of the features offered the driver reads.
    #[must_use]
    pub fn device_features(&self) -> u32 {
        self.device_features.load(Ordering::Relaxed)
    }

    /// Which half of the accepted features the driver sets.
    #[must_use]
    pub fn driver_features(&self) -> u32 {
        self.driver_features.load(Ordering::Relaxed)
    }

    /// Whose registers the driver means; there need be no such queue.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue.load(Ordering::Relaxed)
    }

    /// The driver selects.
    pub fn select_driver_features(&self, half: u32) {
        self.driver_features.store(half, Ordering::Relaxed);
    }

    pub(super) fn save(&self) -> SavedSelects {
        SavedSelects {
            device_features: self.device_features(),
            driver_features: self.driver_features(),
            queue: self.queue(),
        }
    }

    pub(super) fn restore(&self, saved: SavedSelects) {
        let SavedSelects { device_features, driver_features, queue } = saved;
        self.device_features.store(device_features, Ordering::Relaxed);
        self.select_driver_features(driver_features);
        self.queue.store(queue, Ordering::Relaxed);
    }
}
