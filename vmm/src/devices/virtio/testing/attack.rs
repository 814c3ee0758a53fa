//! A driver that means harm: it does what bytes tell it, in any order.

use std::sync::Arc;

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vmm_sys_util::epoll::EventSet;

use super::registers::Registers;
use super::{AVAIL, BUFFERS, Core, FakeDriver, MEMORY, RINGS, RINGS_STRIDE, USED, Worker, descriptor, rings};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::transport::{Area, CoreState};
use crate::memory::Lookup;
use crate::state;
use virtio_queue::QueueT;

/// A device at the mercy of bytes. It outlives attacks: each begins with a reset.
pub struct Target {
    driver: FakeDriver,
    registers: Registers,
    /// Whether the device has asked for a reset in the last attack.
    pub rested: bool,
    /// Whether it has given a chain back.
    pub served: bool,
    /// Races that scripts have asked for.
    races: u64,
}

/// One of so many races is run, since each starts a thread.
const RACES: u64 = 256;

/// What is peculiar to one kind of device.
pub trait World {
    /// What a request for this queue may look like: bytes for the device, and the lengths of buffers for its answer.
    fn request(&mut self, _queue: u16, script: &mut Script<'_>) -> (Vec<u8>, Vec<usize>) {
        (vec![0x5a; script.number(1) as usize], vec![script.number(1) as usize])
    }

    /// Something happens on the host's side.
    fn stir(&mut self, _script: &mut Script<'_>) {}

    /// The host's side becomes as it was before, for a driver that starts anew.
    fn calm(&mut self) {}
}

/// A device without a host's side, which takes anything for a request.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl World for Nothing {}

/// What is left of the bytes.
#[derive(Debug)]
pub struct Script<'a>(&'a [u8]);

impl Script<'_> {
    /// The number that the next `bytes` bytes make, 8 at most; zeroes follow the last byte.
    pub fn number(&mut self, bytes: usize) -> u64 {
        let (head, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        head.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}

impl Target {
    /// A device behind a core alone, on virtio-mmio or on virtio-pci, in turn by `kind`.
    #[must_use]
    pub fn new(device: Box<dyn VirtioDevice>, kind: u8) -> Self {
        let memory = FakeDriver::memory();
        let (core, registers) = Registers::new(device, &memory, kind);
        let driver = FakeDriver::stepping(core, memory);
        Self { driver, registers, rested: false, served: false, races: 0 }
    }

    /// Does what `script` says, then gives the device back as a driver would find it that starts anew: it has to work.
    pub fn attack(&mut self, script: &[u8], world: &mut impl World) -> &mut FakeDriver {
        self.driver.initialise(u64::MAX);
        let mut script = Script(script);
        (self.rested, self.served) = (false, false);
        let map = self.driver.memory.map();
        let mut memory = Lookup::new(&map);
        while !script.0.is_empty() {
            self.step(&mut script, &mut memory, world);
            self.registers.check(&self.driver.core);
            self.rested = self.rested || self.driver.needs_reset();
            let mut used = [0_u8; 2];
            memory.slice(RINGS + USED + 2, 2).expect("in memory").copy_to(&mut used);
            self.served |= used != [0; 2];
        }
        world.calm();
        self.driver.initialise(u64::MAX);
        // What comes of what the world still has, if anything.
        self.driver.run();
        &mut self.driver
    }

    fn step(&mut self, script: &mut Script<'_>, memory: &mut Lookup<'_>, world: &mut impl World) {
        let core = Arc::clone(&self.driver.core);
        let (what, queue) = (script.number(1), script.number(1) as u16 % (core.queue_count() + 1));
        match what % 24 {
            0 => core.set_status(script.number(1) as u8),
            1 => core.set_queue_size(queue, script.number(2) as u16),
            2 => {
                let areas = [Area::Descriptors, Area::Driver, Area::Device];
                let area = areas[script.number(1) as usize % 3];
                core.set_queue_area(queue, area, script.number(1) == 0xff, script.number(4) as u32);
            }
            3 if script.number(1) & 1 == 1 => core.start_queue(queue),
            3 => core.stop_queue(queue),
            4 => core.set_driver_features(script.number(1) as u32, script.number(4) as u32),
            5 => self.driver.run(),
            6 => self.steps(|steps, core| steps.ring(core, queue)),
            7 => {
                let addr = RINGS + script.number(2) % (RINGS_STRIDE * 2);
                write(memory, addr, &script.number(8).to_le_bytes());
            }
            8 | 9 => {
                let index = script.number(1);
                // Mostly in memory, at times at or beyond its end.
                let addr = script.number(3).wrapping_mul(MEMORY >> 23);
                let (len, flags, next) = (script.number(3) as u32, script.number(1), script.number(1));
                let bytes = descriptor(addr, len, flags as u16 & 7, next as u16);
                write(memory, rings(queue) + 16 * index, &bytes);
            }
            10 | 11 => {
                let (slot, head, index) = (script.number(1), script.number(1), script.number(1));
                write(memory, rings(queue) + AVAIL + 4 + 2 * slot, &(head as u16).to_le_bytes());
                write(memory, rings(queue) + AVAIL + 2, &(index as u16).to_le_bytes());
            }
            12 => self.registers.access(script),
            13 => {
                let mut data = [0; 8];
                core.read_config(script.number(1), &mut data);
                core.write_config(script.number(1), &script.number(8).to_le_bytes());
            }
            14 => {
                core.drain();
                let saved = state::encode(&core.save());
                let saved = state::decode::<CoreState>(&saved).expect("what was encoded");
                // A device that a hostile driver has left in a state of no sense may refuse it.
                let _ = core.restore(&saved);
                self.driver.run();
            }
            15 if script.number(1) == 0xff => {
                let seed = script.number(8);
                if self.races.is_multiple_of(RACES) {
                    self.race(queue, seed);
                }
                self.races += 1;
            }
            16..=19 => {
                let (readable, writable) = world.request(queue, script);
                self.offer(memory, queue, &readable, &writable, script.number(1) as usize);
                self.steps(|steps, core| steps.ring(core, queue));
            }
            20 | 21 => world.stir(script),
            22 => {
                let (at, events) = (script.number(1) as usize, script.number(2) as u32);
                self.steps(|steps, core| steps.happen(core, at % 16, EventSet::from_bits_truncate(events)));
            }
            _ => {}
        }
    }

    fn steps(&mut self, step: impl FnOnce(&mut super::Steps, &Core)) {
        if let Worker::Steps(steps) = &mut self.driver.worker {
            step(steps, &self.driver.core);
        }
    }

    /// The driver, which has started anew after an attack.
    pub fn driver(&mut self) -> &mut FakeDriver {
        &mut self.driver
    }

    /// How many descriptors the device watches.
    pub fn watched(&mut self) -> usize {
        let mut watched = 0;
        self.steps(|steps, _| watched = steps.watched());
        watched
    }

    /// Makes a chain available that is as a driver would make it, unless rings were moved: `readable` in two parts, the
    /// first of `split` bytes, then buffers for the answer.
    fn offer(&self, memory: &mut Lookup<'_>, queue: u16, readable: &[u8], writable: &[usize], split: usize) {
        let (head, tail) = readable.split_at(split.min(readable.len()));
        let lens = [(head.len(), false), (tail.len(), false)];
        let lens =
            lens.into_iter().chain(writable.iter().map(|&len| (len, true))).filter(|(len, _)| *len > 0);
        let lens: Vec<_> = lens.collect();
        let Some(last) = lens.len().checked_sub(1) else { return };
        let mut index = [0; 2];
        let base = rings(queue);
        memory.slice(base + AVAIL + 2, 2).expect("in memory").copy_to(&mut index);
        let index = u16::from_le_bytes(index);
        // Places of chains that are in flight are taken once more now and then.
        let (first, mut addr) = (index % 8 * 8, BUFFERS + u64::from(index % 8) * (MEMORY - BUFFERS) / 8);
        write(memory, addr, readable);
        for (i, (len, writable)) in lens.into_iter().enumerate() {
            let flags =
                if writable { VRING_DESC_F_WRITE } else { 0 } | if i < last { VRING_DESC_F_NEXT } else { 0 };
            let bytes = descriptor(addr, len as u32, flags as u16, first + i as u16 + 1);
            write(memory, base + 16 * (u64::from(first) + i as u64), &bytes);
            addr += len as u64;
        }
        // Queues of every size have a slot for it.
        let size = self.driver.core.queue(queue, QueueT::size).max(1);
        write(memory, base + AVAIL + 4 + 2 * u64::from(index % size), &first.to_le_bytes());
        write(memory, base + AVAIL + 2, &index.wrapping_add(1).to_le_bytes());
    }

    /// Changes rings while the worker reads them.
    fn race(&mut self, queue: u16, seed: u64) {
        let memory = self.driver.memory.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut random = seed | 1;
                for _ in 0..64 {
                    // xorshift: enough to be irregular.
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let at = rings(queue) + [0, AVAIL][random as usize & 1] + (random >> 8) % 64;
                    let _ = memory.write(at, &random.to_le_bytes()[..2]);
                }
            });
            (0..8).for_each(|_| self.driver.run());
        });
    }
}

/// Writes to guest memory. What would be outside of it is no attack on the device.
fn write(memory: &mut Lookup<'_>, addr: u64, data: &[u8]) {
    if let Some(slice) = memory.slice(addr, data.len()) {
        slice.copy_from(data);
    }
}
