//! A device on the worker's event loop.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::{Core, WAKE_TOKEN};
use crate::devices::worker::Source;

/// Brings the worker's events to a [`Core`].
pub struct DeviceSource(Arc<Core>);

impl DeviceSource {
    /// What serves the device behind `core`.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Self {
        Self(core)
    }
}

impl MutEventSubscriber for DeviceSource {
    fn init(&mut self, ops: &mut EventOps) {
        // Edge-triggered, each write is an event, and nobody needs to read the counter. Adding fails only for a
        // descriptor that is not one.
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let _ = ops.add(Events::with_data(self.0.wake_event(), WAKE_TOKEN, events));
        for (doorbell, queue) in self.0.doorbells().iter().zip(0..) {
            let _ = ops.add(Events::with_data(doorbell.as_ref(), queue, events));
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            WAKE_TOKEN => self.0.settle(ops),
            token => self.0.process(token, events.event_set(), ops),
        }
    }
}

impl Source for DeviceSource {
    fn finish(&mut self) {
        self.0.finish();
    }

    fn drain(&mut self) {
        self.0.drain();
    }
}
