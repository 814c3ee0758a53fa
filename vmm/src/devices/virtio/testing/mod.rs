//! A driver to test devices with: it negotiates, fills rings, and lets the device's worker run in its own thread, step
//! by step. Unit tests and fuzz targets share it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attack;
mod registers;
mod ring;
mod steps;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::QueueT;

use super::VirtioDevice;
use super::transport::{Area, Core, CoreState, DeviceSource, Transport};
use crate::config::{HugePages, MemorySpec};
use crate::devices::event_loop::EventLoop;
use crate::memory::layout::RamLayout;
use crate::memory::{Lookup, Memory};
use crate::state;

/// Bytes of guest memory.
pub const MEMORY: u64 = 16 << 20;
/// Where the rings of queue 0 are; each queue has [`RINGS_STRIDE`] bytes.
pub const RINGS: u64 = 0x1_0000;
/// Bytes from the rings of one queue to those of the next: descriptors at 0, then the two rings.
pub const RINGS_STRIDE: u64 = 0x1_0000;
/// Offset of the available ring.
pub const AVAIL: u64 = 0x8000;
/// Offset of the used ring.
pub const USED: u64 = 0xa000;
/// Where buffers begin.
pub const BUFFERS: u64 = 0x40_0000;

/// What a part of a queue has at first: room for the descriptors of the longest.
static ZEROES: [u8; 16 * LONGEST as usize] = [0; 16 * LONGEST as usize];
/// Descriptors of a queue, at most.
const LONGEST: u16 = 1024;

pub use attack::{Nothing, Script, Target, World};
use ring::{Buffer, Ring};
use steps::Steps;

/// A transport that counts interrupts, and keeps what it is to show.
#[derive(Debug, Default)]
pub struct FakeTransport {
    queues: [AtomicU32; 32],
    config: AtomicU32,
    shown: Mutex<Vec<u8>>,
    at_interrupt: Mutex<Vec<u8>>,
}

impl Transport for FakeTransport {
    fn interrupt_queue(&self, queue: u16) {
        self.queues[usize::from(queue)].fetch_add(1, Ordering::SeqCst);
        *self.at_interrupt.lock().unwrap() = self.shown.lock().unwrap().clone();
    }

    fn interrupt_config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }

    fn show_config(&self, device: &dyn VirtioDevice) {
        let mut config = vec![0; 256];
        device.read_config(0, &mut config);
        *self.shown.lock().unwrap() = config;
    }
}

/// A chain that the device has given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`FakeDriver::offer`] returned for it.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub written: u32,
    /// Contents of the writable buffers, one after the other, in their whole length.
    pub data: Vec<u8>,
}

/// What does the device's share of the worker's work.
enum Worker {
    /// The event loop that a VM has.
    Loop(EventLoop),
    /// Calls in a row.
    Steps(Steps),
}

/// A driver, and the device that it drives.
pub struct FakeDriver {
    /// The device behind its core, for registers.
    pub core: Arc<Core>,
    /// Guest memory.
    pub memory: Memory,
    transport: Arc<FakeTransport>,
    worker: Worker,
    rings: Vec<Ring>,
    buffers: u64,
}

impl FakeDriver {
    /// Drives `device` with all features that it offers.
    #[must_use]
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_features(device, u64::MAX)
    }

    /// Drives `device` with those of `features` that it offers; bit 32 has to be among them.
    #[must_use]
    pub fn with_features(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::uninitialised(device);
        driver.initialise(features);
        driver
    }

    /// A driver that has not touched its device yet.
    #[must_use]
    pub fn uninitialised(device: Box<dyn VirtioDevice>) -> Self {
        Self::on(Self::memory(), device)
    }

    /// Guest memory of [`MEMORY`] bytes.
    fn memory() -> Memory {
        let spec = MemorySpec { size: MEMORY, huge: HugePages::Default, prealloc: false, shared: false };
        Memory::new(&spec, &RamLayout::new(MEMORY)).unwrap()
    }

    fn on(memory: Memory, device: Box<dyn VirtioDevice>) -> Self {
        let transport = Arc::new(FakeTransport::default());
        let core = Arc::new(Core::new(device, memory.clone(), transport.clone()).unwrap());
        let mut worker = EventLoop::new().unwrap();
        worker.add(Box::new(DeviceSource::new(Arc::clone(&core))));
        Self { core, memory, transport, worker: Worker::Loop(worker), rings: Vec::new(), buffers: BUFFERS }
    }

    /// Drives what is behind `core`, without an event loop of the kernel's.
    fn stepping(core: Arc<Core>, memory: Memory) -> Self {
        let (transport, worker) = (Arc::default(), Worker::Steps(Steps::default()));
        Self { core, memory, transport, worker, rings: Vec::new(), buffers: BUFFERS }
    }

    /// Takes the device from a reset to `DRIVER_OK` as section 3.1.1 says, with queues of their greatest size.
    pub fn initialise(&mut self, features: u64) {
        self.initialise_small(features, LONGEST);
    }

    /// As [`FakeDriver::initialise`], with queues of so many descriptors at most.
    pub fn initialise_small(&mut self, features: u64, most: u16) {
        let core = &self.core;
        core.set_status(0);
        core.set_status(1);
        core.set_status(3);
        for select in 0..2 {
            let wanted = (features >> (32 * select)) as u32;
            core.set_driver_features(select, core.device_features(select) & wanted);
        }
        core.set_status(0xb);
        assert_eq!(core.status(), 0xb, "FEATURES_OK");
        self.rings.clear();
        let map = self.memory.map();
        let mut memory = Lookup::new(&map);
        for queue in 0..core.queue_count() {
            let size = core.queue(queue, QueueT::max_size).min(most).min(LONGEST);
            let base = RINGS + RINGS_STRIDE * u64::from(queue);
            for (part, len) in [(0, 16 * size), (AVAIL, 6 + 2 * size), (USED, 6 + 8 * size)] {
                memory.slice(base + part, len.into()).unwrap().copy_from(&ZEROES[..len.into()]);
            }
            core.set_queue_size(queue, size);
            core.set_queue_area(queue, Area::Descriptors, false, base as u32);
            core.set_queue_area(queue, Area::Driver, false, (base + AVAIL) as u32);
            core.set_queue_area(queue, Area::Device, false, (base + USED) as u32);
            core.start_queue(queue);
            self.rings.push(Ring::new(size));
        }
        core.set_status(0xf);
        match &mut self.worker {
            Worker::Loop(_) => self.run(),
            Worker::Steps(steps) => steps.begin(&self.core),
        }
    }

    /// Lets the worker do what there is to do; returns when nothing is ready any more.
    pub fn run(&mut self) {
        match &mut self.worker {
            // A queue that is processed again and again would keep it here.
            Worker::Loop(worker) => {
                (0..1000).any(|_| worker.turn(0).unwrap() == 0);
            }
            Worker::Steps(steps) => steps.run(&self.core),
        }
    }

    /// Whether the worker has something to do although [`FakeDriver::run`] has just let it.
    pub fn is_busy(&mut self) -> bool {
        match &mut self.worker {
            Worker::Loop(worker) => worker.turn(0).unwrap() > 0,
            Worker::Steps(_) => false,
        }
    }

    /// Lets the worker wait for something to do, at most a second, and do it.
    pub fn wait(&mut self) {
        if let Worker::Loop(worker) = &mut self.worker {
            worker.turn(1000).unwrap();
        }
        self.run();
    }

    /// Makes a chain of buffers available, without a word to the device: those to read with their contents, those to
    /// write with their lengths, which come filled with 0xaa.
    pub fn offer(&mut self, queue: u16, readable: &[&[u8]], writable: &[usize]) -> u16 {
        self.chain(queue, readable, writable, false)
    }

    /// As [`FakeDriver::offer`], by an indirect table.
    pub fn offer_indirect(&mut self, queue: u16, readable: &[&[u8]], writable: &[usize]) -> u16 {
        self.chain(queue, readable, writable, true)
    }

    fn chain(&mut self, queue: u16, readable: &[&[u8]], writable: &[usize], indirect: bool) -> u16 {
        let mut buffers = Vec::new();
        for &data in readable {
            buffers.push(self.buffer(data, false));
        }
        for &len in writable {
            buffers.push(self.buffer(&vec![0xaa; len], true));
        }
        let table = indirect.then(|| self.buffer(&vec![0; 16 * buffers.len()], false));
        let map = self.memory.map();
        let mut memory = Lookup::new(&map);
        let mut write = |addr, data: &[u8]| memory.slice(addr, data.len()).unwrap().copy_from(data);
        let (base, ring) = (rings(queue), &mut self.rings[usize::from(queue)]);
        let descriptors: Vec<u16> = match table {
            Some(_) => (0..buffers.len() as u16).collect(),
            None => buffers.iter().map(|_| ring.descriptor()).collect(),
        };
        let at = table.map_or(base, |table| table.addr);
        for (i, (buffer, &index)) in buffers.iter().zip(&descriptors).enumerate() {
            let next = descriptors.get(i + 1).copied();
            let flags = if buffer.writable { VRING_DESC_F_WRITE } else { 0 }
                | if next.is_some() { VRING_DESC_F_NEXT } else { 0 };
            let bytes = descriptor(buffer.addr, buffer.len as u32, flags as u16, next.unwrap_or(0));
            write(at + 16 * u64::from(index), &bytes);
        }
        let own = match table {
            Some(table) => {
                let head = ring.descriptor();
                let bytes = descriptor(table.addr, table.len as u32, VRING_DESC_F_INDIRECT as u16, 0);
                write(base + 16 * u64::from(head), &bytes);
                vec![head]
            }
            None => descriptors,
        };
        let head = own[0];
        let slot = base + AVAIL + 4 + 2 * u64::from(ring.avail % ring.size);
        write(slot, &head.to_le_bytes());
        ring.avail = ring.avail.wrapping_add(1);
        write(base + AVAIL + 2, &ring.avail.to_le_bytes());
        ring.offered.insert(head, (own, buffers));
        head
    }

    fn buffer(&mut self, data: &[u8], writable: bool) -> Buffer {
        let (len, room) = (data.len(), data.len().next_multiple_of(16) as u64);
        if self.buffers + room > MEMORY {
            self.buffers = BUFFERS;
        }
        let addr = self.buffers;
        self.buffers += room;
        self.memory.write(addr, data).unwrap();
        Buffer { addr, len, writable }
    }

    /// Rings the doorbell, and lets the worker run.
    pub fn kick(&mut self, queue: u16) {
        match &mut self.worker {
            Worker::Loop(_) => {
                self.core.ring(queue);
                self.run();
            }
            Worker::Steps(steps) => steps.kick(&self.core, queue),
        }
    }

    /// Whether the device wants to be rung for what was offered last: `avail_event` of `EVENT_IDX` (2.7.10).
    #[must_use]
    pub fn is_awaited(&self, queue: u16) -> bool {
        let ring = &self.rings[usize::from(queue)];
        let mut wish = [0; 2];
        self.memory.read(rings(queue) + USED + 4 + 8 * u64::from(ring.size), &mut wish).unwrap();
        u16::from_le_bytes(wish) == ring.avail.wrapping_sub(1)
    }

    /// The next chain that the device has given back.
    pub fn take(&mut self, queue: u16) -> Option<Used> {
        let (base, ring) = (rings(queue), &mut self.rings[usize::from(queue)]);
        let map = self.memory.map();
        let mut memory = Lookup::new(&map);
        let mut read = |addr, data: &mut [u8]| memory.slice(addr, data.len()).unwrap().copy_to(data);
        let mut index = [0; 2];
        read(base + USED + 2, &mut index);
        if u16::from_le_bytes(index) == ring.used {
            return None;
        }
        let mut element = [0; 8];
        read(base + USED + 4 + 8 * u64::from(ring.used % ring.size), &mut element);
        ring.used = ring.used.wrapping_add(1);
        // With EVENT_IDX: interrupt for the next one (2.7.7.1).
        let used_event = base + AVAIL + 4 + 2 * u64::from(ring.size);
        self.memory.write(used_event, &ring.used.to_le_bytes()).unwrap();
        let element = u64::from_le_bytes(element);
        let (head, written) = (element as u16, (element >> 32) as u32);
        let (descriptors, buffers) = ring.offered.remove(&head).expect("a chain that was offered");
        ring.free.extend(descriptors);
        let mut data = Vec::new();
        for buffer in buffers.iter().filter(|buffer| buffer.writable) {
            let start = data.len();
            data.resize(start + buffer.len, 0);
            read(buffer.addr, &mut data[start..]);
        }
        Some(Used { head, written, data })
    }

    /// Offers a chain, rings, and takes what comes back at once; panics if nothing does.
    pub fn request(&mut self, queue: u16, readable: &[&[u8]], writable: &[usize]) -> Used {
        let head = self.offer(queue, readable, writable);
        self.kick(queue);
        let used = self.take(queue).expect("an answer");
        assert_eq!(used.head, head);
        used
    }

    /// How often the device has interrupted for a queue.
    #[must_use]
    pub fn interrupts(&self, queue: u16) -> u32 {
        self.transport.queues[usize::from(queue)].load(Ordering::SeqCst)
    }

    /// How often the device has interrupted for its configuration space or its status.
    #[must_use]
    pub fn config_interrupts(&self) -> u32 {
        self.transport.config.load(Ordering::SeqCst)
    }

    /// Whether the device asks for a reset.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        u32::from(self.core.status()) & VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }

    /// `len` bytes of the configuration space, as it was shown when a queue interrupted last.
    #[must_use]
    pub fn config_at_interrupt(&self, len: usize) -> Vec<u8> {
        self.transport.at_interrupt.lock().unwrap()[..len].to_vec()
    }

    /// `len` bytes of the configuration space from `offset` on; it has to be what the transport was given to show.
    #[must_use]
    pub fn config(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.core.read_config(offset, &mut data);
        let shown = &self.transport.shown.lock().unwrap()[offset as usize..];
        assert_eq!(shown[..len], data, "not what drivers are shown");
        data
    }

    /// Drains and saves the device as for a snapshot, then goes on with `fresh` in its place.
    #[must_use]
    pub fn restored(self, fresh: Box<dyn VirtioDevice>) -> Self {
        self.core.drain();
        let saved = state::encode(&self.core.save());
        let Self { core: _, memory, transport: _, worker: _, rings, buffers } = self;
        let mut driver = Self { rings, buffers, ..Self::on(memory, fresh) };
        driver.core.restore(&state::decode::<CoreState>(&saved).unwrap()).unwrap();
        driver.run();
        driver
    }
}

/// Where the rings of a queue are.
#[must_use]
pub fn rings(queue: u16) -> u64 {
    RINGS + RINGS_STRIDE * u64::from(queue)
}

/// A descriptor as it lies in memory (2.7.5).
#[must_use]
pub fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}
