//! How the core calls its device, on the worker mostly.

use std::mem;

use vmm_sys_util::epoll::EventSet;

use super::{Core, DEVICE_TOKEN, Inner};
use crate::devices::event_loop::Descriptors;
use crate::devices::virtio::{Context, Error, Rings, VirtioDevice};

impl Core {
    /// Lends the device its rings and descriptors, then tells the driver what came of it: that the configuration space
    /// has changed, or that the device rests because the driver broke its rules.
    pub(super) fn lend(
        &self,
        inner: &mut Inner,
        descriptors: Option<&mut dyn Descriptors>,
        call: impl FnOnce(&mut dyn VirtioDevice, &mut Context<'_>) -> Result<(), Error>,
    ) {
        let map = self.memory.map();
        let (transport, doorbells) = (self.transport.as_ref(), &self.doorbells);
        let rings = Rings::new(&map, &mut inner.queues, inner.features, transport, doorbells);
        let descriptors = descriptors.map(|descriptors| descriptors as &mut dyn Descriptors);
        let mut context = Context { rings, descriptors, watched: &mut inner.watched };
        let result = call(inner.device.as_mut(), &mut context);
        let changed = context.rings.config_changed;
        if result.is_err() {
            context.unwatch_all();
        }
        if changed {
            self.config_changed(inner);
        }
        if result.is_err() {
            self.needs_reset(inner);
        }
    }

    /// Does what the driver's writes to the status have left for the worker: a reset, then an activation.
    pub(in crate::devices::virtio) fn settle(&self, descriptors: &mut dyn Descriptors) {
        let inner = &mut *self.inner();
        if mem::take(&mut inner.reset) {
            for fd in inner.watched.drain(..) {
                descriptors.remove(fd);
            }
            inner.device.reset();
            self.transport.show_config(inner.device.as_ref());
        }
        if inner.active || !inner.is_live() {
            return;
        }
        inner.active = true;
        self.transport.connect(&self.connected);
        self.lend(inner, Some(descriptors), |device, cx| device.activate(cx));
        // What was made available before anybody listened.
        (0..self.queue_count()).for_each(|queue| self.ring(queue));
    }

    /// The worker's event loop has found an event with this token.
    pub(in crate::devices::virtio) fn process(
        &self,
        token: u32,
        events: EventSet,
        descriptors: &mut dyn Descriptors,
    ) {
        let inner = &mut *self.inner();
        // Events that were on their way when the device was reset are not for the next driver.
        if !inner.active || inner.reset || !inner.is_live() {
            return;
        }
        self.lend(inner, Some(descriptors), |device, cx| match u16::try_from(token) {
            Ok(queue) => device.process_queue(cx, queue),
            Err(_) => device.process_event(cx, token & !DEVICE_TOKEN, events),
        });
    }

    /// Completes what is in flight: no memory of the guest's is touched after this, until the worker goes on.
    pub fn drain(&self) {
        self.drain_device(&mut self.inner());
    }

    /// Does what the driver has asked for and nobody may have seen yet, then completes it.
    pub(in crate::devices::virtio::transport) fn finish(&self) {
        let inner = &mut *self.inner();
        for queue in 0..self.queue_count() {
            if inner.active && inner.is_live() {
                self.lend(inner, None, |device, cx| device.process_queue(cx, queue));
            }
        }
        self.drain_device(inner);
    }

    pub(super) fn drain_device(&self, inner: &mut Inner) {
        if inner.active {
            self.lend(inner, None, |device, cx| {
                device.drain(cx);
                Ok(())
            });
        }
    }
}
