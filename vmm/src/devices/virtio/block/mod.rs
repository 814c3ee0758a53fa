//! The block device (5.2): requests of the driver become operations on a [disk](crate::disk).

mod config;
mod flight;
mod request;
#[cfg(test)]
mod tests;

use std::io;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;
use zerocopy::IntoBytes;

use super::{Chain, Context, DeviceKind, Error, Rings, VirtioDevice, read_bytes};
use crate::devices::rate::{RateLevels, RateLimiter};
use crate::disk::{Backend, Geometry, Operation};
use crate::state::{self, Saved};
use config::{Config, feature};
use flight::Flights;
pub use request::ID_LEN;
use request::{Request, Status, Work};

/// Descriptors of a queue: as many as a request of 1 MiB in scattered pages needs, and some more.
const QUEUE_SIZE: u16 = 512;
/// Buffers of data in one request: all descriptors but those for header and status.
const SEG_MAX: u16 = QUEUE_SIZE - 2;

/// The most requests that go on in the background at once; more wait in their queues.
pub const MAX_FLIGHTS: usize = 256;

/// Token of the event that the disk has ended something that went on in the background.
const DISK: u32 = 0;
/// Token of the event that the rate limiter lets requests through again.
const LIMITER: u32 = 1;

/// What a block device is, beside its disk.
#[derive(Debug)]
pub struct Options {
    /// Queues, 1 or more.
    pub queues: u16,
    /// What `VIRTIO_BLK_T_GET_ID` gives, NUL-padded.
    pub id: [u8; ID_LEN],
    /// Whether the guest is told of a cache that it has to flush. Without, each write is durable when it is done, or
    /// (`sync: false`) none is.
    pub writeback: bool,
    /// Whether durability is kept at all.
    pub sync: bool,
    /// How much the guest may do.
    pub limiter: Option<RateLimiter>,
}

/// A block device.
pub struct Block {
    disk: Box<dyn Backend>,
    options: Options,
    geometry: Geometry,
    config: Config,
    queue_sizes: Vec<u16>,
    flights: Flights,
    /// Chains to give back, and how much was written to each: empty between calls.
    used: Vec<(u16, u32)>,
    watched: bool,
}

/// What is in flight is drained, and the rest is configuration.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BlockState {
    limiter: Option<RateLevels>,
}

impl Saved for BlockState {
    const NAME: &'static str = "block device";
    const VERSION: u16 = 1;
}

impl Block {
    /// A device on `disk`.
    #[must_use]
    pub fn new(disk: Box<dyn Backend>, options: Options) -> Self {
        let geometry = disk.geometry();
        let queues = options.queues.max(1);
        Self {
            config: Config::new(&geometry, SEG_MAX, queues),
            geometry,
            disk,
            options,
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            flights: Flights::default(),
            used: Vec::new(),
            watched: false,
        }
    }

    /// Begins what a chain asks for: the bytes that were written to it if that was done at once.
    fn begin<'m>(
        &mut self,
        rings: &Rings<'m>,
        queue: u16,
        chain: &mut Chain<'m>,
    ) -> Result<Option<u32>, Error> {
        let head = chain.head;
        let request = Request::parse(chain)?;
        if let Some(limiter) = &mut self.options.limiter {
            limiter.charge(request.data_len());
        }
        let durable = self.options.sync && !rings.has(feature::FLUSH);
        let status = match request.work(&self.geometry, durable) {
            Work::Disk(operation) => {
                let id = self.flights.next();
                match self.disk.start(id, &operation) {
                    Some(result) => {
                        if let Operation::Read { to, .. } = operation {
                            flight::mark_dirty(to, rings.memory());
                        }
                        status_of(&result)
                    }
                    None => {
                        let (written, status) = (request.written(), request.status());
                        let answer = (std::mem::take(&mut chain.writable), status);
                        self.flights.take_off(id, queue, head, written, answer, rings.memory());
                        return Ok(None);
                    }
                }
            }
            Work::Identify(to) => {
                let mut id: &[u8] = &self.options.id;
                for buffer in to {
                    let len = buffer.len().min(id.len());
                    buffer.copy_from(&id[..len]);
                    id = &id[len..];
                }
                Status::Ok
            }
            Work::Refuse(status) => status,
        };
        request.answer(status);
        Ok(Some(if status == Status::Ok { request.written() } else { 1 }))
    }

    /// Begins what the driver asks for, a bounded number of requests. What was done at once is added to `used`.
    fn begin_all(&mut self, rings: &mut Rings<'_>, queue: u16) -> Result<(), Error> {
        let mut chain = Chain::default();
        for _ in 0..QUEUE_SIZE {
            if !self.admits() {
                return Ok(());
            }
            chain.clear();
            while !rings.pop_into(queue, &mut chain)? {
                if !rings.listen(queue)? {
                    return Ok(());
                }
            }
            if let Some(written) = self.begin(rings, queue, &mut chain)? {
                self.used.push((chain.head, written));
            }
        }
        rings.again(queue);
        Ok(())
    }

    /// Gives back what has ended in the background.
    fn land(&mut self, rings: &mut Rings<'_>) -> Result<(), Error> {
        let was_full = self.flights.len() >= MAX_FLIGHTS;
        let mut landed = false;
        while let Some((id, result)) = self.disk.completed() {
            let Some(flight) = self.flights.land(id) else { continue };
            let (queue, head, written) = flight.end(status_of(&result));
            rings.push(queue, head, written)?;
            landed = true;
        }
        if landed {
            for queue in 0..self.options.queues {
                rings.notify(queue)?;
                if was_full {
                    rings.again(queue);
                }
            }
        }
        Ok(())
    }

    /// Has the disk tell when something has ended in the background; it may not be able to before something begins there.
    fn watch_disk(&mut self, cx: &mut Context<'_>) {
        if !self.watched
            && let Some(ready) = self.disk.ready()
        {
            // Without it, what ends in the background is seen at the next request only.
            let _ = cx.watch(&ready, DISK, EventSet::IN | EventSet::EDGE_TRIGGERED);
            self.watched = true;
        }
    }

    /// Whether one more request may begin. If not, its queue is looked at again when it may.
    fn admits(&mut self) -> bool {
        self.flights.len() < MAX_FLIGHTS && self.options.limiter.as_mut().is_none_or(RateLimiter::admits)
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let mut bits = vec![feature::SEG_MAX, feature::BLK_SIZE, feature::TOPOLOGY];
        if self.geometry.readonly {
            bits.push(feature::RO);
        } else {
            bits.extend([feature::DISCARD, feature::WRITE_ZEROES]);
        }
        if self.options.writeback {
            bits.push(feature::FLUSH);
        }
        if self.options.queues > 1 {
            bits.push(feature::MQ);
        }
        bits.into_iter().fold(0, |bits, bit| bits | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(self.config.as_bytes(), offset, data);
    }

    fn activate(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.disk.prepare(cx.memory());
        self.watch_disk(cx);
        if let Some(limiter) = &self.options.limiter {
            let _ = cx.watch(limiter, LIMITER, EventSet::IN | EventSet::EDGE_TRIGGERED);
        }
        Ok(())
    }

    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        let begun = self.begin_all(cx, queue);
        let pushed = cx.push_all(queue, self.used.iter().copied());
        self.used.clear();
        begun.and(pushed)?;
        if self.flights.len() > 0 {
            // What cannot be handed over now is handed over with the next.
            let _ = self.disk.submit();
            self.watch_disk(cx);
            self.land(cx)?;
        }
        cx.notify(queue)
    }

    fn process_event(&mut self, cx: &mut Context<'_>, token: u32, _events: EventSet) -> Result<(), Error> {
        match (token, &self.options.limiter) {
            (LIMITER, Some(limiter)) => {
                limiter.acknowledge();
                (0..self.options.queues).for_each(|queue| cx.again(queue));
                Ok(())
            }
            _ => self.land(cx),
        }
    }

    fn drain(&mut self, rings: &mut Rings<'_>) {
        // A driver that broke its rings gets nothing back, but what it began has ended.
        while self.flights.len() > 0 {
            let _ = self.disk.submit();
            let _ = self.disk.wait();
            let _ = self.land(rings);
        }
    }

    fn reset(&mut self) {
        self.watched = false;
    }

    fn save(&self) -> Vec<u8> {
        let limiter = self.options.limiter.as_ref().map(RateLimiter::save);
        state::encode(&BlockState { limiter })
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error> {
        let BlockState { limiter } = state::decode(saved)?;
        if let (Some(limiter), Some(levels)) = (&mut self.options.limiter, limiter) {
            limiter.restore(&levels);
        }
        Ok(())
    }
}

fn status_of(result: &io::Result<()>) -> Status {
    if result.is_ok() { Status::Ok } else { Status::IoErr }
}
