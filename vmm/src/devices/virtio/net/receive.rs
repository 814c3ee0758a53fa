//! Frames for the guest.

use super::backend::{HEADER, LONGEST, Outcome};
use super::{Net, QUEUE_SIZE, receive_queue};
use crate::devices::virtio::queue::total;
use crate::devices::virtio::scatter::{copy_in, copy_out};
use crate::devices::virtio::{Chain, Context, Error};
use smallvec::SmallVec;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vm_memory::VolatileMemory;

/// Where `num_buffers` is in the header (5.1.6).
const NUM_BUFFERS: usize = 10;

/// One direction of a pair of queues.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The backend may have a frame.
    pub(super) readable: bool,
    /// The guest has sent something since a frame came, so that the next one is likely its answer, and alone.
    pub(super) answer: bool,
    /// The descriptor is not watched for frames, since there is no room for those that it may have.
    pub(super) masked: bool,
    /// Room that is offered to the next frame at first: for the last one, or a bit less than for the one before.
    expected: usize,
    /// What did not go into that.
    spill: Vec<u8>,
    /// A whole frame that waits for buffers.
    held: Option<Vec<u8>>,
}

impl Default for Receiver {
    fn default() -> Self {
        let (spill, held) = (Vec::new(), None);
        Self { readable: true, answer: false, masked: false, expected: 0, spill, held }
    }
}

impl Net {
    /// Gives the guest the frames that are there for it, as far as it has made buffers available.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, pair: u16) -> Result<(), Error> {
        let queue = receive_queue(pair);
        let mut left = QUEUE_SIZE;
        // What one frame leaves of them is for the next.
        let mut buffers = Buffers::new(queue, cx.has(VIRTIO_NET_F_MRG_RXBUF));
        while left > 0 && self.link_up && pair < self.pairs {
            let Some(receiver) = self.receivers.get(usize::from(pair)) else { return Ok(()) };
            if !receiver.readable && receiver.held.is_none() {
                break;
            }
            if self.limit_receive.as_mut().is_some_and(|limit| !limit.admits()) {
                break;
            }
            match self.receive_frame(cx, pair, &mut buffers)? {
                Received::Frame => {
                    left -= 1;
                    let receiver = &mut self.receivers[usize::from(pair)];
                    if std::mem::take(&mut receiver.answer)
                        && buffers.used.len() == 1
                        && self.backend.is_direct()
                    {
                        // If there is another one, that is the descriptor's next event: to try would take longer.
                        receiver.readable = false;
                    }
                }
                Received::Nothing => break,
                Received::NoBuffer if cx.listen(queue)? => {}
                Received::NoBuffer => break,
            }
        }
        buffers.give_up(cx);
        if left == 0 {
            cx.again(queue);
        }
        self.mask(cx, pair);
        cx.notify(queue)
    }

    /// Watches a descriptor that is readable for as long as there are frames only while there is room for them.
    fn mask(&mut self, cx: &mut Context<'_>, pair: u16) {
        let Some(receiver) = self.receivers.get_mut(usize::from(pair)) else { return };
        if self.link_up && self.backend.is_direct() && receiver.masked != receiver.readable {
            receiver.masked = receiver.readable;
            self.watch(cx, pair);
        }
    }

    /// Brings one frame into the driver's buffers.
    fn receive_frame<'m>(
        &mut self,
        cx: &mut Context<'m>,
        pair: u16,
        buffers: &mut Buffers<'m>,
    ) -> Result<Received, Error> {
        let receiver = &mut self.receivers[usize::from(pair)];
        buffers.reach(cx, receiver.held.as_ref().map_or(receiver.expected, Vec::len))?;
        let Some(first) = buffers.chains.first() else { return Ok(Received::NoBuffer) };
        if first.room < HEADER {
            return Err(Error::Request("a buffer of the network device has no room for a header"));
        }
        let held = receiver.held.take();
        let len = if let Some(frame) = &held {
            let direct = copy_in(&buffers.slices.writable, 0, frame);
            receiver.spill.clear();
            receiver.spill.extend(&frame[direct..]);
            frame.len()
        } else {
            if receiver.spill.len() < LONGEST {
                receiver.spill.resize(LONGEST, 0);
            }
            match self.backend.receive(pair, &buffers.slices.writable, &mut receiver.spill) {
                Outcome::Done(len) => len,
                outcome => {
                    receiver.readable = false;
                    if outcome == Outcome::Gone {
                        self.disconnect(cx);
                    }
                    return Ok(Received::Nothing);
                }
            }
        };
        let direct = buffers.room.min(len);
        let spilt = receiver.spill.get(..len - direct).unwrap_or_default();
        // Asked for while all are taken, the driver rings for the next one, and not for the first of these.
        let most = usize::from(QUEUE_SIZE);
        let mut fits = buffers.reach(cx, len)?;
        while !fits && buffers.mergeable && buffers.chains.len() < most && cx.listen(buffers.queue)? {
            fits = buffers.reach(cx, len)?;
        }
        if fits {
            copy_in(&buffers.slices.writable, direct, spilt);
            if let Some(limit) = &mut self.limit_receive {
                limit.charge((len - HEADER.min(len)) as u64);
            }
            receiver.expected = len.max(receiver.expected - receiver.expected / 8);
            buffers.finish(cx, len)?;
            return Ok(Received::Frame);
        }
        // A frame in several buffers, where each frame has to have one, does not reach the guest; nor does one that
        // not even all buffers that there can be have room for.
        if !buffers.mergeable || buffers.chains.len() >= most {
            return Ok(Received::Frame);
        }
        receiver.held = held.or_else(|| {
            let mut frame = vec![0; direct];
            copy_out(&buffers.slices.writable, 0, &mut frame);
            frame.extend(spilt);
            Some(frame)
        });
        Ok(Received::Nothing)
    }
}

/// What came of an attempt to receive.
enum Received {
    Frame,
    Nothing,
    NoBuffer,
}

/// Buffers of the driver's that were taken and are not filled yet.
struct Buffers<'m> {
    queue: u16,
    /// Whether a frame may have several of them.
    mergeable: bool,
    chains: SmallVec<[Taken; 2]>,
    /// Those of all chains.
    slices: Chain<'m>,
    room: usize,
    used: SmallVec<[(u16, u32); 2]>,
}

/// One of them.
struct Taken {
    head: u16,
    /// How many slices it has.
    pieces: usize,
    room: usize,
}

impl<'m> Buffers<'m> {
    fn new(queue: u16, mergeable: bool) -> Self {
        let (chains, slices, used) = (SmallVec::new(), Chain::default(), SmallVec::new());
        Self { queue, mergeable, chains, slices, room: 0, used }
    }

    /// Takes as many as a frame of `len` bytes takes, at least one, as far as there are any and a frame may have them;
    /// whether that is enough.
    fn reach(&mut self, cx: &mut Context<'m>, len: usize) -> Result<bool, Error> {
        let most = if self.mergeable { usize::from(QUEUE_SIZE) } else { 1 };
        while (self.chains.is_empty() || self.room < len) && self.chains.len() < most {
            let before = self.slices.writable.len();
            if !cx.pop_into(self.queue, &mut self.slices)? {
                break;
            }
            self.slices.readable.clear();
            let own = &self.slices.writable[before..];
            let taken = Taken { head: self.slices.head, pieces: own.len(), room: total(own) as usize };
            self.room += taken.room;
            self.chains.push(taken);
        }
        Ok(self.room >= len)
    }

    /// Gives the frame of `len` bytes that is in them to the driver. The rest stays.
    fn finish(&mut self, cx: &mut Context<'m>, len: usize) -> Result<(), Error> {
        let (mut left, mut pieces) = (len, 0);
        self.used.clear();
        for taken in &self.chains {
            let here = left.min(taken.room);
            self.used.push((taken.head, here as u32));
            (left, pieces, self.room) = (left - here, pieces + taken.pieces, self.room - taken.room);
            if left == 0 {
                break;
            }
        }
        let count = (self.used.len() as u16).to_le();
        // Nearly always, the header is in one piece.
        match self.slices.writable.first().and_then(|first| first.get_ref(NUM_BUFFERS).ok()) {
            Some(field) => field.store(count),
            None => drop(copy_in(&self.slices.writable, NUM_BUFFERS, &count.to_ne_bytes())),
        }
        cx.push_all(self.queue, &self.used)?;
        if self.used.len() == self.chains.len() {
            self.chains.clear();
            self.slices.clear();
        } else {
            self.chains.drain(..self.used.len());
            self.slices.writable.drain(..pieces);
        }
        Ok(())
    }

    /// Makes all that are left available again.
    fn give_up(&self, cx: &mut Context<'m>) {
        self.chains.iter().for_each(|_| cx.undo_pop(self.queue));
    }
}
