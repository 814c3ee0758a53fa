//! Split virtqueues (2.7): chains of descriptors become slices of guest memory, checked before a device sees them.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{QueueOwnedT, QueueState, QueueT};

use super::batch::Batch;
use super::chain::{Chain, total};
use super::descriptors::{MAX_CHAIN, Walk, descriptor};
use crate::memory::{Lookup, Map, Slice, field, load_index, store_index};

/// Bytes that a buffer for what the guest receives has at least, most likely.
const LIKELY: usize = 1024;

/// What a driver did that it must not.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A ring cannot be reached, or its index is beyond reason.
    #[error("virtqueue {queue}: its rings are not in guest memory, or the driver's index is out of bounds")]
    Ring {
        /// Number of the queue.
        queue: u16,
    },
    /// A chain that is empty, has no end, or has indices beyond its table.
    #[error("virtqueue {queue}: the chain at descriptor {head} is broken or longer than {MAX_CHAIN}")]
    Chain {
        /// Number of the queue.
        queue: u16,
        /// First descriptor.
        head: u16,
    },
    /// A buffer where there is no guest memory.
    #[error("virtqueue {queue}: {len} bytes at {addr:#x} are not in guest memory")]
    Outside {
        /// Number of the queue.
        queue: u16,
        /// Guest-physical address.
        addr: u64,
        /// Bytes.
        len: u32,
    },
    /// A readable buffer after a writable one (2.7.4.2).
    #[error("virtqueue {queue}: the chain at descriptor {head} has a readable buffer after a writable one")]
    Order {
        /// Number of the queue.
        queue: u16,
        /// First descriptor.
        head: u16,
    },
    /// Buffers that do not make a request of the device's.
    #[error("{0}")]
    Request(&'static str),
}

/// Where the parts of a queue's ring are (2.6).
#[derive(Debug)]
pub struct Areas<'m> {
    descriptors: Slice<'m>,
    driver: Slice<'m>,
    device: Slice<'m>,
    /// The driver's index, as it was read last.
    available: u16,
}

/// One virtqueue, as the core holds it.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    ring: virtio_queue::Queue,
    /// Where the used index was when the driver was last told, or last had the chance to be.
    told: Wrapping<u16>,
}

/// What of a queue goes into a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
    next_avail: u16,
    next_used: u16,
    told: u16,
    event_idx: bool,
}

impl Queue {
    /// Queue number `index` with at most `max_size` descriptors, a power of two.
    pub fn new(index: u16, max_size: u16) -> Result<Self, virtio_queue::Error> {
        Ok(Self { index, ring: virtio_queue::Queue::new(max_size)?, told: Wrapping(0) })
    }

    /// Registers of the queue, for the core.
    pub(super) fn ring(&mut self) -> &mut virtio_queue::Queue {
        &mut self.ring
    }

    /// Whether the driver has made it ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ring.ready()
    }

    /// Its number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Whether all of its rings are in guest memory.
    #[must_use]
    pub fn is_valid(&self, map: &Map) -> bool {
        self.ring.is_valid(map)
    }

    /// As it was before the driver touched it.
    pub(super) fn reset(&mut self) {
        self.ring.reset();
        self.told = Wrapping(0);
    }

    fn broken(&self) -> Error {
        Error::Ring { queue: self.index }
    }

    /// Looks the parts of the ring up in guest memory, once for as long as the device is called.
    pub fn areas<'m>(&self, memory: &mut Lookup<'m>) -> Result<Areas<'m>, Error> {
        self.look_up(memory).ok_or_else(|| self.broken())
    }

    #[inline(always)]
    fn look_up<'m>(&self, memory: &mut Lookup<'m>) -> Option<Areas<'m>> {
        let (ring, size) = (&self.ring, usize::from(self.ring.size()));
        // Each ring ends with an index that is there only with `EVENT_IDX`.
        let event = if ring.event_idx_enabled() { 2 } else { 0 };
        Some(Areas {
            descriptors: memory.slice(ring.desc_table(), size * size_of::<Descriptor>())?,
            driver: memory.slice(ring.avail_ring(), 4 + 2 * size + event)?,
            device: memory.slice(ring.used_ring(), 4 + 8 * size + event)?,
            available: ring.next_avail(),
        })
    }

    /// Whether there is a chain that was not taken yet.
    // For every chain, several times: an optimizer for size would call it.
    #[inline(always)]
    fn is_waiting(&self, areas: &mut Areas<'_>) -> Result<bool, Error> {
        let next = self.ring.next_avail();
        if areas.available == next {
            // What the driver wrote before it moved the index on is read after it.
            areas.available = load_index(&areas.driver, 2, Ordering::Acquire).ok_or_else(|| self.broken())?;
        }
        if areas.available.wrapping_sub(next) > self.ring.size() {
            return Err(self.broken());
        }
        Ok(areas.available != next)
    }

    /// Appends the next chain that the driver made available to `chain`, whose head is then this one's. Whether there
    /// was one.
    pub fn pop<'m>(
        &mut self,
        memory: &mut Lookup<'m>,
        areas: &mut Areas<'m>,
        chain: &mut Chain<'m>,
    ) -> Result<bool, Error> {
        if !self.is_waiting(areas)? {
            return Ok(false);
        }
        let (queue, size, next) = (self.index, self.ring.size(), self.ring.next_avail());
        self.ring.set_next_avail(next.wrapping_add(1));
        let entry = 4 + 2 * usize::from(next % size);
        let head = u16::from_le(field(&areas.driver, entry).ok_or_else(|| self.broken())?.load());
        let mut walk = Walk::new(areas.descriptors, size, head);
        let before = chain.writable.len();
        loop {
            let Some(descriptor) = walk.next(memory) else { return Err(Error::Chain { queue, head }) };
            let (addr, len) = (descriptor.addr().0, descriptor.len());
            let buffers = if descriptor.is_write_only() {
                &mut chain.writable
            } else if chain.writable.len() == before {
                &mut chain.readable
            } else {
                return Err(Error::Order { queue, head });
            };
            let Some(buffer) = memory.slice(addr, len as usize) else {
                return Err(Error::Outside { queue, addr, len });
            };
            if buffers.len() == buffers.capacity() && descriptor.has_next() {
                buffers.reserve(walk.left()); // Each further allocation would copy what was there.
            }
            buffers.push(buffer);
            if !descriptor.has_next() {
                (chain.head, chain.len) = (head, walk.len());
                return Ok(true);
            }
            if buffers.spilled()
                && let Some(region) = memory.last()
            {
                buffers.extend(walk.alike(descriptor.flags(), region));
            }
        }
    }

    /// Appends chains that the driver made available to `batch`, one after the other, for as long as there are any, until
    /// it has room for `len` bytes, or `most` chains.
    pub fn gather<'m>(
        &mut self,
        memory: &mut Lookup<'m>,
        areas: &mut Areas<'m>,
        batch: &mut Batch<'m>,
        len: usize,
        most: usize,
    ) -> Result<(), Error> {
        while batch.room < len && batch.chains.len() < most && self.is_waiting(areas)? {
            if self.gather_alone(memory, areas, batch, len, most) {
                continue;
            }
            let before = batch.buffers.writable.len();
            self.pop(memory, areas, &mut batch.buffers)?;
            batch.buffers.readable.clear();
            let own = &batch.buffers.writable[before..];
            // A chain has less than 4 GiB.
            batch.append(batch.buffers.head, own.len(), total(own) as u32);
        }
        Ok(())
    }

    /// As [`Queue::gather`], of those that are known to be there, as long as they are chains of one buffer, in the region
    /// that was looked at last, as nearly all are that there is to receive into. Whether there was one.
    fn gather_alone<'m>(
        &mut self,
        memory: &Lookup<'m>,
        areas: &Areas<'m>,
        batch: &mut Batch<'m>,
        len: usize,
        most: usize,
    ) -> bool {
        let (size, first, end) = (self.ring.size(), self.ring.next_avail(), areas.available);
        let waiting = usize::from(end.wrapping_sub(first)).min(most - batch.chains.len());
        batch.reserve(waiting.min((len - batch.room) / LIKELY));
        let (Some(region), mut next) = (memory.last(), first) else { return false };
        while next != end && batch.room < len && batch.chains.len() < most {
            let entry = 4 + 2 * usize::from(next % size);
            let Some(head) = field(&areas.driver, entry).map(|head| u16::from_le(head.load())) else { break };
            let Some(alone) = descriptor(&areas.descriptors, head) else { break };
            if !alone.is_write_only() || alone.has_next() || alone.refers_to_indirect_table() {
                break;
            }
            let Some(buffer) = region.slice(alone.addr().0, alone.len() as usize) else { break };
            batch.buffers.writable.push(buffer);
            batch.append(head, 1, alone.len());
            next = next.wrapping_add(1);
        }
        self.ring.set_next_avail(next);
        next != first
    }

    /// Takes back the last [`Queue::pop`]: that chain is available again.
    pub fn undo_pop(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Gives chains back, each with the bytes that were written to it; the driver sees all of them at once.
    pub fn push(
        &mut self,
        areas: &Areas<'_>,
        used: impl IntoIterator<Item = (u16, u32)>,
    ) -> Result<(), Error> {
        let (size, ring) = (self.ring.size(), &areas.device);
        let mut next = Wrapping(self.ring.next_used());
        for (head, len) in used {
            let slot = 4 + 8 * usize::from(next.0 % size);
            let element = u64::from(len) << 32 | u64::from(head);
            field(ring, slot).ok_or_else(|| self.broken())?.store(element.to_le());
            next += 1;
        }
        store_index(ring, 2, next.0, Ordering::Release).ok_or_else(|| self.broken())?;
        self.ring.set_next_used(next.0);
        Ok(())
    }

    /// Chains that were given back since the driver was last told, or had the chance to be.
    #[must_use]
    pub fn untold(&self) -> u16 {
        (Wrapping(self.ring.next_used()) - self.told).0
    }

    /// Whether the driver wants to be interrupted for what was pushed since the last call (2.7.7.2, 2.7.10).
    pub fn take_notification(&mut self, areas: &Areas<'_>) -> Result<bool, Error> {
        let now = Wrapping(self.ring.next_used());
        let before = std::mem::replace(&mut self.told, now);
        if now == before {
            return Ok(false);
        }
        // What was pushed has to be seen before the driver's wish is read.
        fence(Ordering::SeqCst);
        let event_idx = self.ring.event_idx_enabled();
        let at = if event_idx { 4 + 2 * usize::from(self.ring.size()) } else { 0 };
        let wish = load_index(&areas.driver, at, Ordering::Relaxed).ok_or_else(|| self.broken())?;
        Ok(if event_idx {
            now - Wrapping(wish) - Wrapping(1) < now - before
        } else {
            u32::from(wish) & VRING_AVAIL_F_NO_INTERRUPT == 0
        })
    }

    /// Asks the driver to ring for the next chain, or with `EVENT_IDX` for that after so many `spared` ones; whether there is
    /// one already, which it may not ring for.
    pub fn listen(&mut self, areas: &mut Areas<'_>, spared: u16) -> Result<bool, Error> {
        let next = self.ring.next_avail();
        // Without `EVENT_IDX`, no flag says that the driver need not ring (2.7.10).
        let (at, wish) = if self.ring.event_idx_enabled() {
            (4 + 8 * usize::from(self.ring.size()), next.wrapping_add(spared))
        } else {
            (0, 0)
        };
        store_index(&areas.device, at, wish, Ordering::Relaxed).ok_or_else(|| self.broken())?;
        // The wish has to be seen before the index is read.
        fence(Ordering::SeqCst);
        areas.available = next;
        self.is_waiting(areas)
    }

    /// The state of the queue.
    #[must_use]
    pub fn save(&self) -> SavedQueue {
        let Self { index: _, ring, told } = self;
        let QueueState {
            max_size: _,
            next_avail,
            next_used,
            event_idx_enabled: event_idx,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        } = ring.state();
        let told = told.0;
        SavedQueue { size, ready, desc_table, avail_ring, used_ring, next_avail, next_used, told, event_idx }
    }

    /// Takes back what [`Queue::save`] gave, if it can be that of a queue of this greatest size.
    pub fn restore(&mut self, saved: &SavedQueue) -> Result<(), virtio_queue::Error> {
        let &SavedQueue {
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
            next_avail,
            next_used,
            told,
            event_idx,
        } = saved;
        self.ring = virtio_queue::Queue::try_from(QueueState {
            max_size: self.ring.max_size(),
            next_avail,
            next_used,
            event_idx_enabled: event_idx,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        })?;
        self.told = Wrapping(told);
        Ok(())
    }
}
