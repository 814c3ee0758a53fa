//! Frames for the guest.

use super::backend::{HEADER, LONGEST, Outcome};
use super::{Net, QUEUE_SIZE, receive_queue};
use crate::devices::virtio::scatter::{copy_in, copy_out};
use crate::devices::virtio::{Batch, Context, Error, Taken};
use crate::memory::field;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

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
                    if std::mem::take(&mut receiver.answer) && buffers.taken == 1 && self.backend.is_direct()
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
        let Some(first) = buffers.batch.chains.first() else { return Ok(Received::NoBuffer) };
        if (first.room as usize) < HEADER {
            return Err(Error::Request("a buffer of the network device has no room for a header"));
        }
        let held = receiver.held.take();
        let len = if let Some(frame) = &held {
            let direct = copy_in(&buffers.batch.buffers.writable, 0, frame);
            receiver.spill.clear();
            receiver.spill.extend(&frame[direct..]);
            frame.len()
        } else {
            if receiver.spill.len() < LONGEST {
                receiver.spill.resize(LONGEST, 0);
            }
            match self.backend.receive(pair, &buffers.batch.buffers.writable, &mut receiver.spill) {
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
        let direct = buffers.batch.room.min(len);
        let spilt = receiver.spill.get(..len - direct).unwrap_or_default();
        // Asked for while all are taken, the driver rings for the next one, and not for the first of these.
        let mut fits = buffers.reach(cx, len)?;
        while !fits && buffers.batch.chains.len() < buffers.most && cx.listen(buffers.queue)? {
            fits = buffers.reach(cx, len)?;
        }
        if fits {
            copy_in(&buffers.batch.buffers.writable, direct, spilt);
            if let Some(limit) = &mut self.limit_receive {
                limit.charge((len - HEADER.min(len)) as u64);
            }
            receiver.expected = len.max(receiver.expected - receiver.expected / 8);
            buffers.finish(cx, len)?;
            return Ok(Received::Frame);
        }
        // A frame in several buffers, where each frame has to have one, does not reach the guest; nor does one that
        // not even all buffers that there can be have room for.
        if buffers.batch.chains.len() >= buffers.most {
            return Ok(Received::Frame);
        }
        receiver.held = held.or_else(|| {
            let mut frame = vec![0; direct];
            copy_out(&buffers.batch.buffers.writable, 0, &mut frame);
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
    /// The most that a frame may have.
    most: usize,
    batch: Batch<'m>,
    /// How many the last frame took.
    taken: usize,
}

impl<'m> Buffers<'m> {
    fn new(queue: u16, mergeable: bool) -> Self {
        let most = if mergeable { usize::from(QUEUE_SIZE) } else { 1 };
        Self { queue, most, batch: Batch::default(), taken: 0 }
    }

    /// Takes as many as a frame of `len` bytes takes, at least one, as far as there are any and a frame may have them;
    /// whether that is enough.
    fn reach(&mut self, cx: &mut Context<'m>, len: usize) -> Result<bool, Error> {
        cx.gather(self.queue, &mut self.batch, len.max(1), self.most)?;
        Ok(self.batch.room >= len)
    }

    /// Gives the frame of `len` bytes that is in them to the driver. The rest stays.
    fn finish(&mut self, cx: &mut Context<'m>, len: usize) -> Result<(), Error> {
        let Batch { chains, buffers, .. } = &self.batch;
        let mut room = 0;
        let fills = |taken: &&Taken| {
            let before = room;
            room += taken.room as usize;
            before == 0 || before < len
        };
        self.taken = chains.iter().take_while(fills).count();
        let count = (self.taken as u16).to_le();
        // Nearly always, the header is in one piece.
        match buffers.writable.first().and_then(|first| field(first, NUM_BUFFERS)) {
            Some(field) => field.store(count),
            None => drop(copy_in(&buffers.writable, NUM_BUFFERS, &count.to_ne_bytes())),
        }
        let mut left = len;
        let used = chains[..self.taken].iter().map(|taken| {
            let here = left.min(taken.room as usize);
            left -= here;
            (taken.head, here as u32)
        });
        cx.push_all(self.queue, used)?;
        self.batch.drop_first(self.taken);
        Ok(())
    }

    /// Makes all that are left available again.
    fn give_up(&self, cx: &mut Context<'m>) {
        self.batch.chains.iter().for_each(|_| cx.undo_pop(self.queue));
    }
}
