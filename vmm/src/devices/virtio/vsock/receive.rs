//! From the muxer and the sockets to the guest: packets into the buffers that the driver has made available.

use std::io;

use smallvec::SmallVec;
use zerocopy::IntoBytes;

use super::packet::Header;
use super::{QUEUE_SIZE, RECEIVE, Vsock};
use crate::devices::virtio::scatter::{self, copy_in, parts, readv};
use crate::devices::virtio::{Batch, Context, Error};
use crate::memory::subslice;

/// Buffers that are read into at once, at most.
const MOST: usize = 32;

const TOO_SMALL: Error = Error::Request("a buffer for packets of the socket device has no room for one");

impl Vsock {
    /// Gives the guest what there is for it, as far as it has made buffers available.
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut left = usize::from(QUEUE_SIZE);
        while left > 0 {
            // What is asked and granted comes before data, for which it may be the condition.
            let given = if self.muxer.has_next() {
                self.deliver_control(cx)?
            } else if let Some(place) = self.sockets.next() {
                self.deliver_data(cx, place)?
            } else {
                break;
            };
            match given {
                Some(given) => left = left.saturating_sub(given),
                None if cx.listen(RECEIVE)? => {}
                None => break,
            }
        }
        if left == 0 && (self.muxer.has_next() || !self.sockets.is_idle()) {
            cx.again(RECEIVE);
        }
        cx.notify(RECEIVE)
    }

    /// Gives one packet without data: how many buffers it took; none if there was no buffer.
    fn deliver_control(&mut self, cx: &mut Context<'_>) -> Result<Option<usize>, Error> {
        let Some(chain) = cx.pop(RECEIVE)? else { return Ok(None) };
        let Some(header) = self.muxer.next() else {
            cx.undo_pop(RECEIVE);
            return Ok(Some(0));
        };
        if copy_in(&chain.writable, 0, header.as_bytes()) < Header::LEN {
            return Err(TOO_SMALL);
        }
        cx.push(RECEIVE, chain.head, Header::LEN as u32)?;
        Ok(Some(1))
    }

    /// Gives data of one socket: how many buffers it took; none if there was no buffer.
    fn deliver_data(&mut self, cx: &mut Context<'_>, place: u32) -> Result<Option<usize>, Error> {
        let (Some(key), Some(socket)) = (self.sockets.key(place), self.sockets.get(place)) else {
            return Ok(Some(0));
        };
        let credit = self.muxer.credit(key) as usize;
        if !socket.readable || credit == 0 {
            // The packet that grants more puts it back into the line.
            return Ok(Some(0));
        }
        let mut batch = Batch::default();
        // Each of them has a header as well.
        cx.gather(RECEIVE, &mut batch, credit + socket.burst * Header::LEN, socket.burst)?;
        if batch.chains.is_empty() {
            self.sockets.not_yet(place);
            return Ok(None);
        }
        let (mut room, mut rest) = (0, batch.buffers.writable.as_slice());
        let mut pieces = SmallVec::<[_; MOST]>::new();
        for taken in &batch.chains {
            let (own, others) = rest.split_at(taken.pieces.into());
            let here = (taken.room as usize).saturating_sub(Header::LEN);
            if here == 0 {
                return Err(TOO_SMALL);
            }
            let here = here.min(credit - room);
            match own {
                [only] if let Some(piece) = subslice(only, Header::LEN, here) => pieces.push(piece),
                _ => parts(own, Header::LEN, here).for_each(|piece| pieces.push(piece)),
            }
            (room, rest) = (room + here, others);
        }
        let mut given = 0;
        match readv(&socket.fd, &pieces, &mut []) {
            Ok(0) => {
                let flags = socket.end();
                self.muxer.shut(key, flags);
            }
            Ok(len) => {
                // Less than there was room for: there was no more, unless its end is to come.
                let all_offered = pieces.len() <= scatter::MOST;
                socket.readable = len == room || !all_offered || socket.hung_up;
                let mut header = self.muxer.send(key, len as u32);
                let (mut left, mut rest) = (len, batch.buffers.writable.as_slice());
                let used = batch.chains.iter().map_while(|taken| {
                    let (own, others) = rest.split_at(taken.pieces.into());
                    let here = left.min(taken.room as usize - Header::LEN);
                    (left, rest) = (left - here, others);
                    header.len = (here as u32).into();
                    (here > 0).then(|| {
                        copy_in(own, 0, header.as_bytes());
                        (taken.head, (Header::LEN + here) as u32)
                    })
                });
                cx.push_all(RECEIVE, used.inspect(|_| given += 1))?;
                // What comes next is about as much.
                socket.burst = if len == room { (2 * socket.burst).min(MOST) } else { given };
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.muxer.abort(key);
                self.sockets.remove(cx, place);
            }
        }
        (given..batch.chains.len()).for_each(|_| cx.undo_pop(RECEIVE));
        self.sockets.again(place);
        Ok(Some(given))
    }
}
