//! Saved state of a device and its queues.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::selects::SavedSelects;
use super::{Core, Inner};
use crate::devices::virtio::Queue;
use crate::devices::virtio::queue::SavedQueue;
use crate::state::{self, Saved};

/// What of a device and its queues goes into a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreState {
    queues: Vec<SavedQueue>,
    status: u8,
    features: u64,
    generation: u32,
    selects: SavedSelects,
    /// The device's own; none after a reset.
    device: Option<Vec<u8>>,
}

impl Saved for CoreState {
    const NAME: &'static str = "virtio device";
    const VERSION: u16 = 1;
}

impl Core {
    /// The state of a device that has been drained.
    #[must_use]
    pub fn save(&self) -> CoreState {
        let Self {
            inner: _,
            transport: _,
            memory: _,
            kind: _,
            offered: _,
            doorbells: _,
            connected: _,
            wake: _,
            generation,
            selects,
        } = self;
        let inner = self.inner();
        let Inner { device, queues, status, features, reset, active: _, watched: _ } = &*inner;
        CoreState {
            queues: queues.iter().map(Queue::save).collect(),
            status: *status,
            features: *features,
            generation: generation.load(Ordering::Acquire),
            selects: selects.save(),
            device: (!reset).then(|| device.save()),
        }
    }

    /// Takes back what [`Core::save`] gave; the worker then activates the device if it was active.
    pub fn restore(&self, saved: &CoreState) -> Result<(), state::Error> {
        let CoreState { queues, status, features, generation, selects, device } = saved;
        let damaged = || state::Error::Damaged { name: CoreState::NAME };
        let inner = &mut *self.inner();
        if queues.len() != inner.queues.len() || features & !self.offered != 0 {
            return Err(damaged());
        }
        for (queue, saved) in inner.queues.iter_mut().zip(queues) {
            queue.restore(saved).map_err(|_| damaged())?;
        }
        if let Some(device) = device {
            inner.device.restore(device)?;
        }
        (inner.status, inner.features) = (*status, *features);
        self.generation.store(*generation, Ordering::Release);
        self.selects.restore(*selects);
        self.transport.show_status(*status);
        self.transport.show_config(inner.device.as_ref());
        self.transport.show_generation(*generation);
        self.show_features();
        self.show_queue(inner);
        let map = self.memory.map();
        if inner.queues.iter().any(|queue| queue.is_ready() && !queue.is_valid(&map)) {
            return Err(damaged());
        }
        self.wake();
        Ok(())
    }
}
