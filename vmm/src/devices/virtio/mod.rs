//! Virtio devices (OASIS Virtual I/O Device, version 1.3; section numbers in comments are of that text).
//!
//! ```text
//! guest ─ registers ─▶ transport shell ─▶ core ◀─ events ─ worker ◀─ doorbells (ioeventfd), descriptors of devices
//!                      mmio or pci        │ lends rings and descriptors to
//!                                         ▼
//!                                       device: its own logic and nothing else
//! ```
//!
//! A device is a [`VirtioDevice`]. Everything about registers, feature negotiation, rings, interrupts, reset and
//! the transport's saved state is the [core's](transport::Core).

mod batch;
mod block;
pub mod chain;
mod console;
mod context;
mod descriptors;
mod entropy;
mod net;
mod pmem;
pub mod queue;
pub mod scatter;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod transport;
mod vsock;

pub use batch::{Batch, Taken};
pub use block::{Block, Options as BlockOptions};
pub use chain::Chain;
pub use console::{Console, ConsoleInput, MAX_PORTS, Port};
pub use context::{Context, Rings};
pub use entropy::Entropy;
pub use net::{Backend as NetBackend, Net, NetOptions, Stream, Tap};
#[cfg(any(test, feature = "testing"))]
pub use net::{Cable, Loopback};
pub use pmem::{Pmem, Writes as PmemWrites};
pub use queue::{Error, Queue};
#[cfg(any(test, feature = "testing"))]
pub use vsock::FakePeers;
pub use vsock::{Endpoint, Peers, Vsock};

use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use crate::memory::Mapping;
use crate::state;

/// What a device is (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceKind {
    /// Network card (5.1).
    Net = 1,
    /// Block device (5.2).
    Block = 2,
    /// Console (5.3).
    Console = 3,
    /// Entropy source (5.4).
    Entropy = 4,
    /// Socket device (5.10).
    Vsock = 19,
    /// Persistent memory (5.19).
    Pmem = 27,
}

impl DeviceKind {
    /// The number that stands for it in registers.
    #[must_use]
    pub fn id(self) -> u16 {
        self as u16
    }
}

/// The logic of one device.
///
/// The core owns the device and calls it under one lock, so methods never run at the same time. `activate`,
/// `process_queue`, `process_event` and `reset` are called on the device worker's thread; what reads or writes the
/// configuration space on that one or a vCPU's. None of them may wait for the guest, and each call does a bounded amount of work
/// ([`Rings::again`] asks for another one).
///
/// An error from `activate`, `process_queue` or `process_event` says that the driver broke the device's rules:
/// the core sets `DEVICE_NEEDS_RESET` (2.1.2) and calls the device no more until the driver resets it. Failures of
/// the host's side are no such errors: the device tells the driver in its own protocol.
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// The device's own feature bits (0 to 23, and 50 up). Those of rings and transport are the core's.
    fn features(&self) -> u64 {
        0
    }

    /// The greatest size of each of its queues, powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Whether a queue is served by the vCPU that rings for it, before it goes on, instead of by the worker: for queues
    /// whose driver waits in a loop for the answer, where a worker would need a processor of its own. `process_queue`
    /// must not watch descriptors then.
    fn is_immediate(&self, _queue: u16) -> bool {
        false
    }

    /// Reads the device-specific configuration space; `data` comes filled with zeroes, and
    /// [`read_bytes`] does all there is to do for one that lies in memory. Drivers may read
    /// it without an exit, its first 256 bytes: they find what it was when the device last said that it [has
    /// changed](Rings::config_changed) by itself, which has to be within one aligned word, or [by a
    /// command](Rings::show_config), or when it was reset or written to.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    /// The driver writes to the configuration space.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Memory of the host's that stands in the guest's address space for the device.
    fn host_memory(&self) -> Option<HostMemory> {
        None
    }

    /// [`VirtioDevice::host_memory`] begins at this guest-physical address.
    fn place(&mut self, _start: u64) {}

    /// The driver is ready (`DRIVER_OK`), or the device goes on after a restore. Afterwards each queue is processed
    /// once. This is the time to watch descriptors.
    fn activate(&mut self, _cx: &mut Context<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// The driver has rung the doorbell of a queue (which may be empty by now).
    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error>;

    /// A descriptor that the device watches is ready; `token` is what it was watched by.
    fn process_event(&mut self, _cx: &mut Context<'_>, _token: u32, _events: EventSet) -> Result<(), Error> {
        Ok(())
    }

    /// Completes what is in flight. Once this returns, nothing touches guest memory before the next call to the
    /// device. Called before a pause, before a reset, at the end, and from a vCPU's thread as well.
    fn drain(&mut self, _rings: &mut Rings<'_>) {}

    /// Forgets the driver: back to the state before `activate`. The device has been drained, its rings are gone,
    /// and none of its descriptors is watched any more.
    fn reset(&mut self) {}

    /// The device's own state, encoded by [`crate::state`]; it has been drained.
    fn save(&self) -> Vec<u8>;

    /// Takes back what [`VirtioDevice::save`] gave; `activate` follows if the device was active.
    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error>;
}

/// Memory of the host's that a device puts into the guest's address space.
#[derive(Clone, Debug)]
pub struct HostMemory {
    /// Where it is in this process.
    pub mapping: Arc<Mapping>,
    /// Its bytes, a multiple of 2 MiB.
    pub len: u64,
    /// Whether the guest may only read it.
    pub readonly: bool,
}

/// Answers a read of a configuration space that lies in memory: what is beyond its end is left as it is.
pub fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let Some(rest) = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)) else { return };
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}
