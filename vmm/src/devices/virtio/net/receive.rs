//! Frames for the guest.

use super::backend::{HEADER, LONGEST, Outcome};
use super::{Net, QUEUE_SIZE, receive_queue};
use crate::devices::virtio::queue::total;
use crate::devices::virtio::scatter::{copy_in, copy_out};
use crate::devices::virtio::{Chain, Context, Error};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

/// Where `num_buffers` is in the header (5.1.6).
const NUM_BUFFERS: usize = 10;

/// One direction of a pair of queues.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The backend may have a frame.
    pub(super) readable: bool,
    /// Buffers that the last frame took: as many are offered to the next one at first.
    expected: usize,
    /// What did not go into those.
    spill: Vec<u8>,
    /// A whole frame that waits for buffers.
    held: Option<Vec<u8>>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self { readable: true, expected: 1, spill: Vec::new(), held: None }
    }
}

impl Net {
    /// Gives the guest the frames that are there for it, as far as it has made buffers available.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, pair: u16) -> Result<(), Error> {
        let queue = receive_queue(pair);
        let mut left = QUEUE_SIZE;
        while left > 0 && self.link_up && pair < self.pairs {
            let Some(receiver) = self.receivers.get(usize::from(pair)) else { return Ok(()) };
            if !receiver.readable && receiver.held.is_none() {
                break;
            }
            if self.limit_receive.as_mut().is_some_and(|limit| !limit.admits()) {
                break;
            }
            match self.receive_frame(cx, pair, queue)? {
                Received::Frame => left -= 1,
                Received::Nothing => break,
                Received::NoBuffer if cx.listen(queue)? => {}
                Received::NoBuffer => break,
            }
        }
        if left == 0 {
            cx.again(queue);
        }
        cx.notify(queue)
    }

    /// Brings one frame into the driver's buffers.
    fn receive_frame(&mut self, cx: &mut Context<'_>, pair: u16, queue: u16) -> Result<Received, Error> {
        let mergeable = cx.has(VIRTIO_NET_F_MRG_RXBUF);
        let receiver = &mut self.receivers[usize::from(pair)];
        let (mut spill, held) = (std::mem::take(&mut receiver.spill), receiver.held.take());
        let expected = if mergeable { receiver.expected } else { 1 };
        let mut buffers = Buffers::default();
        while buffers.chains.len() < expected && buffers.take(cx, queue)? {}
        if buffers.chains.is_empty() {
            let receiver = &mut self.receivers[usize::from(pair)];
            (receiver.spill, receiver.held) = (spill, held);
            return Ok(Received::NoBuffer);
        }
        let len = if let Some(frame) = &held {
            let direct = copy_in(&buffers.slices, 0, frame);
            spill.clear();
            spill.extend(&frame[direct..]);
            frame.len()
        } else {
            spill.resize(LONGEST, 0);
            match self.backend.receive(pair, &buffers.slices, &mut spill) {
                Outcome::Done(len) => len,
                outcome => {
                    buffers.give_up(cx, queue);
                    (receiver.spill, receiver.readable) = (spill, false);
                    if outcome == Outcome::Gone {
                        self.disconnect(cx);
                    }
                    return Ok(Received::Nothing);
                }
            }
        };
        // A frame in several buffers, where each frame has to have one, does not reach the guest.
        let mut fits = true;
        while buffers.room < len && fits {
            fits = mergeable
                && buffers.chains.len() < usize::from(QUEUE_SIZE)
                // Asked for while all are taken, the driver rings for the next one, and not for the first of these.
                && (buffers.extend(cx, queue, &spill)?
                    || cx.listen(queue)? && buffers.extend(cx, queue, &spill)?);
        }
        let receiver = &mut self.receivers[usize::from(pair)];
        if fits {
            if let Some(limit) = &mut self.limit_receive {
                limit.charge((len - HEADER.min(len)) as u64);
            }
            receiver.expected = buffers.finish(cx, queue, len)?;
            receiver.spill = spill;
            return Ok(Received::Frame);
        }
        // What does not even fit into all buffers that there can be is lost.
        let waits = mergeable && buffers.chains.len() < usize::from(QUEUE_SIZE);
        if waits {
            receiver.held = Some(buffers.collect(len, &spill));
        }
        receiver.spill = spill;
        buffers.give_up(cx, queue);
        Ok(if waits { Received::Nothing } else { Received::Frame })
    }
}

/// What came of an attempt to receive.
enum Received {
    Frame,
    Nothing,
    NoBuffer,
}

/// Buffers of the driver that are about to be filled.
#[derive(Default)]
struct Buffers<'m> {
    chains: Vec<(u16, usize)>,
    slices: Vec<crate::memory::Slice<'m>>,
    room: usize,
    /// Bytes that were read straight into buffers; behind them comes what has spilt.
    direct: Option<usize>,
}

impl<'m> Buffers<'m> {
    /// Takes one more chain; whether there was one.
    fn take(&mut self, cx: &mut Context<'m>, queue: u16) -> Result<bool, Error> {
        let Some(Chain { head, readable: _, writable }) = cx.pop(queue)? else { return Ok(false) };
        let room = total(&writable) as usize;
        if self.chains.is_empty() && room < HEADER {
            return Err(Error::Request("a buffer of the network device has no room for a header"));
        }
        self.chains.push((head, room));
        self.slices.extend(writable);
        self.room += room;
        Ok(true)
    }

    /// Takes one more chain, and fills it with what has spilt.
    fn extend(&mut self, cx: &mut Context<'m>, queue: u16, spill: &[u8]) -> Result<bool, Error> {
        let (direct, before) = (*self.direct.get_or_insert(self.room), self.room);
        if !self.take(cx, queue)? {
            return Ok(false);
        }
        copy_in(&self.slices, before, spill.get(before - direct..).unwrap_or_default());
        Ok(true)
    }

    /// Gives a frame of `len` bytes to the driver: how many buffers it took.
    fn finish(self, cx: &mut Context<'m>, queue: u16, len: usize) -> Result<usize, Error> {
        let mut left = len;
        let mut used = Vec::with_capacity(self.chains.len());
        for &(head, room) in &self.chains {
            let here = left.min(room);
            if here == 0 && !used.is_empty() {
                cx.undo_pop(queue);
                continue;
            }
            left -= here;
            used.push((head, here as u32));
        }
        copy_in(&self.slices, NUM_BUFFERS, &(used.len() as u16).to_le_bytes());
        cx.push_all(queue, &used)?;
        Ok(used.len())
    }

    /// The frame that was read: what is in the buffers, and behind it what has spilt.
    fn collect(&self, len: usize, spill: &[u8]) -> Vec<u8> {
        let direct = self.direct.unwrap_or(self.room).min(len);
        let mut frame = vec![0; direct];
        copy_out(&self.slices, 0, &mut frame);
        frame.extend(&spill[..(len - direct).min(spill.len())]);
        frame
    }

    /// Makes all chains available again.
    fn give_up(&self, cx: &mut Context<'m>, queue: u16) {
        self.chains.iter().for_each(|_| cx.undo_pop(queue));
    }
}
