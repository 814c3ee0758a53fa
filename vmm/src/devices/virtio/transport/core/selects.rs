//! What the driver has selected for the registers that stand for several (4.1.4.3, 4.2.2).

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::Core;

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
    pub fn select_device_features(&self, half: u32) {
        self.device_features.store(half, Ordering::Relaxed);
    }

    /// The driver selects.
    pub fn select_driver_features(&self, half: u32) {
        self.driver_features.store(half, Ordering::Relaxed);
    }

    /// The driver selects.
    pub fn select_queue(&self, queue: u16) {
        self.queue.store(queue, Ordering::Relaxed);
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
        self.select_device_features(device_features);
        self.select_driver_features(driver_features);
        self.select_queue(queue);
    }
}
