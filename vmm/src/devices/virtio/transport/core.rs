//! The one implementation of feature negotiation, status, queue configuration, reset and saved state
//! (sections 2 and 3.1); a transport only says at which offsets these are.

mod selects;
mod state;
mod worker;

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::{DEVICE_TOKEN, Doorbell, Transport};
use crate::devices::virtio::{DeviceKind, Queue, VirtioDevice};
use crate::memory::Memory;
pub use selects::Selects;
pub use state::CoreState;

const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
/// What the core offers for every device.
const CORE_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// The three parts of a virtqueue (2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Descriptor table.
    Descriptors,
    /// Available ring, "driver area".
    Driver,
    /// Used ring, "device area".
    Device,
}

/// A device, its queues, and what its driver has said of both.
pub struct Core {
    inner: Mutex<Inner>,
    transport: Arc<dyn Transport>,
    memory: Memory,
    kind: DeviceKind,
    offered: u64,
    doorbells: Vec<Arc<EventFd>>,
    /// Those that need no vCPU.
    connected: Vec<Doorbell>,
    wake: EventFd,
    generation: AtomicU32,
    selects: Selects,
}

pub(super) struct Inner {
    device: Box<dyn VirtioDevice>,
    queues: Vec<Queue>,
    status: u8,
    features: u64,
    /// The driver has reset the device, and the worker has not taken note yet.
    reset: bool,
    /// The device has been activated, and may touch its rings.
    active: bool,
    watched: Vec<RawFd>,
}

impl Core {
    /// Puts a device behind a transport.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        transport: Arc<dyn Transport>,
    ) -> io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let sizes = device.queue_sizes().iter().zip(0..);
        let queues = sizes.map(|(&size, index)| Queue::new(index, size)).collect::<Result<Vec<_>, _>>();
        let queues = queues.map_err(io::Error::other)?;
        let doorbells = queues.iter().map(|_| event().map(Arc::new)).collect::<io::Result<Vec<_>>>()?;
        let connected = (doorbells.iter().zip(0..))
            .filter(|(_, queue)| !device.is_immediate(*queue))
            .map(|(doorbell, queue)| (queue, Arc::clone(doorbell)))
            .collect();
        let (kind, offered) = (device.kind(), device.features() | CORE_FEATURES);
        let (status, features, reset, active) = (0, 0, false, false);
        transport.show_config(device.as_ref());
        let inner = Inner { device, queues, status, features, reset, active, watched: Vec::new() };
        let core = Self {
            inner: Mutex::new(inner),
            transport,
            memory,
            kind,
            offered,
            doorbells,
            connected,
            wake: event()?,
            generation: AtomicU32::new(0),
            selects: Selects::default(),
        };
        core.show_features();
        core.show_queue(&mut core.inner());
        Ok(core)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What kind of device it is.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The doorbell of each queue: readable once it was rung.
    #[must_use]
    pub fn doorbells(&self) -> &[Arc<EventFd>] {
        &self.doorbells
    }

    /// The doorbells that the kernel can ring.
    #[must_use]
    pub fn connected(&self) -> &[Doorbell] {
        &self.connected
    }

    /// The driver's notification of a queue has come as an exit.
    pub fn notified(&self, queue: u16) {
        let inner = &mut *self.inner();
        // An error of before the worker has taken note of the driver is found by the worker.
        if inner.device.is_immediate(queue) && inner.active && !inner.reset && inner.is_live() {
            self.lend(inner, None, |device, cx| device.process_queue(cx, queue));
        } else {
            self.ring(queue);
        }
    }

    /// Rings the doorbell of a queue, if there is such a queue.
    pub fn ring(&self, queue: u16) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue)) {
            // Fails only when the counter is full, and then it is readable anyway.
            let _ = doorbell.write(1);
        }
    }

    pub(super) fn wake_event(&self) -> &EventFd {
        &self.wake
    }

    /// The features offered, 32 bits from `32 * select` on.
    #[must_use]
    pub fn device_features(&self, select: u32) -> u32 {
        half(self.offered, select)
    }

    /// The features that the driver has accepted, 32 bits from `32 * select` on.
    #[must_use]
    pub fn driver_features(&self, select: u32) -> u32 {
        half(self.inner().features, select)
    }

    /// The driver accepts features; not any more once it has said that they are all (3.1.1).
    pub fn set_driver_features(&self, select: u32, bits: u32) {
        let mut inner = self.inner();
        if inner.status & FEATURES_OK == 0 && select < 2 {
            let shift = 32 * select;
            inner.features = inner.features & !(u64::from(u32::MAX) << shift) | u64::from(bits) << shift;
        }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.inner().status
    }

    /// The driver goes on with initialisation, or resets the device by a zero. After a reset the device touches guest
    /// memory no more.
    pub fn set_status(&self, status: u8) {
        let mut inner = self.inner();
        if status == 0 {
            return self.reset(&mut inner);
        }
        // No bit is taken back but by a reset (2.1.1), and NEEDS_RESET is not the driver's to set.
        let mut now = inner.status | status & !NEEDS_RESET;
        let new = now & !inner.status;
        let acceptable = inner.features & !self.offered == 0 && inner.features >> VIRTIO_F_VERSION_1 & 1 == 1;
        if new & FEATURES_OK != 0 && !acceptable {
            now &= !FEATURES_OK;
        }
        inner.status = now;
        self.transport.show_status(now);
        if new & DRIVER_OK == 0 {
            return;
        }
        let map = self.memory.map();
        let usable = |queue: &Queue| !queue.is_ready() || queue.is_valid(&map);
        if now & FEATURES_OK == 0 || !inner.queues.iter().all(usable) {
            return self.needs_reset(&mut inner);
        }
        self.wake();
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = self.wake.write(1);
    }

    fn reset(&self, inner: &mut Inner) {
        if inner.active {
            self.drain_device(inner);
            (inner.active, inner.reset) = (false, true);
            self.wake();
        }
        inner.queues.iter_mut().for_each(Queue::reset);
        (inner.status, inner.features) = (0, 0);
        self.transport.reset();
        // A driver waits for the status, and may go on as soon as it is this.
        self.show_queue(inner);
        self.transport.show_status(0);
    }

    /// The driver broke the rules: it is told so, and the device rests until the driver resets it.
    fn needs_reset(&self, inner: &mut Inner) {
        inner.status |= NEEDS_RESET;
        self.transport.show_status(inner.status);
        if inner.status & DRIVER_OK != 0 {
            self.transport.interrupt_config();
        }
    }

    /// How many queues there are.
    #[must_use]
    pub fn queue_count(&self) -> u16 {
        self.doorbells.len() as u16
    }

    /// What `read` finds at the ring of a queue; zero if there is no such queue.
    pub fn queue<T: Default>(&self, queue: u16, read: impl FnOnce(&virtio_queue::Queue) -> T) -> T {
        self.inner().queues.get_mut(usize::from(queue)).map_or_else(T::default, |queue| read(queue.ring()))
    }

    /// The driver sets the size of a queue.
    pub fn set_queue_size(&self, queue: u16, size: u16) {
        self.configure(queue, |ring| {
            // Keeps the size it had if this one cannot be; the driver can read it back.
            let _ = ring.try_set_size(size);
        });
    }

    /// The driver sets where a part of a queue is: the lower or the upper half of its address.
    pub fn set_queue_area(&self, queue: u16, area: Area, upper: bool, half: u32) {
        let (low, high) = if upper { (None, Some(half)) } else { (Some(half), None) };
        self.configure(queue, |ring| match area {
            Area::Descriptors => ring.set_desc_table_address(low, high),
            Area::Driver => ring.set_avail_ring_address(low, high),
            Area::Device => ring.set_used_ring_address(low, high),
        });
    }

    /// The driver has set a queue up.
    pub fn start_queue(&self, queue: u16) {
        let event_idx = self.inner().features >> VIRTIO_RING_F_EVENT_IDX & 1 == 1;
        self.configure(queue, |ring| {
            ring.set_event_idx(event_idx);
            ring.set_ready(true);
        });
        self.show_queue(&mut self.inner());
    }

    /// The driver uses a queue no more, which it may also say of a live device (4.2.2.2): what was begun there has ended
    /// when this returns, and the queue's memory is the driver's again.
    pub fn stop_queue(&self, queue: u16) {
        let inner = &mut *self.inner();
        self.drain_device(inner);
        if let Some(queue) = inner.queues.get_mut(usize::from(queue)) {
            queue.ring().set_ready(false);
        }
        self.show_queue(inner);
    }

    /// Queues are set up before the device is live (3.1.1).
    fn configure(&self, queue: u16, change: impl FnOnce(&mut virtio_queue::Queue)) {
        let mut inner = self.inner();
        if inner.status & DRIVER_OK == 0
            && let Some(queue) = inner.queues.get_mut(usize::from(queue))
        {
            change(queue.ring());
        }
    }

    /// Changes whenever the configuration space has changed by itself (2.5.1).
    #[must_use]
    pub fn config_generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the device's configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.inner().device.read_config(offset, data);
    }

    /// Writes to the device's configuration space.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        let mut inner = self.inner();
        inner.device.write_config(offset, data);
        self.transport.show_config(inner.device.as_ref());
    }

    fn config_changed(&self, inner: &Inner) {
        self.transport.show_config(inner.device.as_ref());
        self.transport.show_generation(self.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1));
        self.transport.interrupt_config();
    }
}

impl Inner {
    /// Whether the device may work: its driver is ready, and has not broken the rules.
    fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }
}

fn half(bits: u64, select: u32) -> u32 {
    if select < 2 { (bits >> (32 * select)) as u32 } else { 0 }
}
