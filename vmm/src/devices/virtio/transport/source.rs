//! A device on the worker's event loop.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::{Core, WAKE_TOKEN};
use crate::devices::event_loop::{Descriptors, Source};

/// Brings the worker's events to a [`Core`].
pub struct DeviceSource(Arc<Core>);

impl DeviceSource {
    /// What serves the device behind `core`.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Self {
        Self(core)
    }
}

impl Source for DeviceSource {
    fn begin(&mut self, descriptors: &mut dyn Descriptors) {
        // Edge-triggered, each write is an event, and nobody needs to read the counter. Adding fails only for a
        // descriptor that is not one.
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let _ = descriptors.add(self.0.wake_event().as_raw_fd(), WAKE_TOKEN, events);
        for (doorbell, queue) in self.0.doorbells().iter().zip(0..) {
            let _ = descriptors.add(doorbell.as_raw_fd(), queue, events);
        }
    }

    fn process(&mut self, token: u32, events: EventSet, descriptors: &mut dyn Descriptors) {
        match token {
            WAKE_TOKEN => self.0.settle(descriptors),
            token => self.0.process(token, events, descriptors),
        }
    }

    fn finish(&mut self) {
        self.0.finish();
    }

    fn drain(&mut self) {
        self.0.drain();
    }
}
