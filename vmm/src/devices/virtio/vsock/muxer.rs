//! All streams between a guest and the host, as a state machine: packets of the guest and what happens to the host's
//! sockets go in, packets for the guest come out. It holds no data, only counts.

use std::collections::{BTreeMap, VecDeque};
use std::num::Wrapping;

use super::packet::{HOST_CID, Header, SHUT_BOTH, STREAM, op};
use super::stream::{Due, Phase, Stream};

/// Streams at most; beyond, connections are refused.
pub const MAX_STREAMS: usize = 1024;
/// Bytes of one stream that wait at most for a host program which does not read.
pub const BUF_ALLOC: u32 = 256 << 10;
/// Resets that wait at most for a guest which takes no packets; what it gets none for, it has to time out itself.
const MAX_RESETS: usize = MAX_STREAMS;
/// Ports of connections that the host makes; the same range as Firecracker's.
const LOCAL_PORTS: std::ops::Range<u32> = 1 << 30..1 << 31;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The port on the host.
    pub host: u32,
    /// The port in the guest.
    pub guest: u32,
}

impl Key {
    /// The stream of a packet of the guest.
    #[must_use]
    pub fn of_guest(header: &Header) -> Self {
        Self { host: header.dst_port.get(), guest: header.src_port.get() }
    }
}

/// What the host's side of a stream has to do for a packet of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, but that there may be more room for its data now.
    None,
    /// Connect to the host's port, then tell [`Muxer::accept`] or [`Muxer::abort`].
    Connect(Key),
    /// The guest has accepted what [`Muxer::open`] asked for.
    Connected(Key),
    /// Take all data of the packet, and tell [`Muxer::forwarded`] when it is on its way.
    Data(Key),
    /// The guest receives or sends no more: flags of the packet.
    Shutdown(Key, u32),
    /// The stream is over; what is still there of it can be dropped.
    Closed(Key),
}

/// The state of all streams.
#[derive(Debug)]
pub struct Muxer {
    guest_cid: u64,
    streams: BTreeMap<Key, Stream>,
    /// Streams that have something else than data to send.
    due: VecDeque<Key>,
    resets: VecDeque<(Key, u16)>,
    next_port: u32,
}

impl Muxer {
    /// No streams, of the guest with this context identifier.
    #[must_use]
    pub fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            streams: BTreeMap::new(),
            due: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: LOCAL_PORTS.start,
        }
    }

    /// Forgets all streams: the guest has forgotten them.
    pub fn clear(&mut self) {
        *self = Self { next_port: self.next_port, ..Self::new(self.guest_cid) };
    }

    /// Takes a packet of the guest.
    pub fn receive(&mut self, header: &Header) -> Effect {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return Effect::None;
        }
        let key = Key::of_guest(header);
        let (op, kind) = (header.op.get(), header.kind.get());
        if op == op::RST {
            return if self.remove(key) { Effect::Closed(key) } else { Effect::None };
        }
        let room = self.streams.len() < MAX_STREAMS;
        let stream = match self.streams.get_mut(&key) {
            Some(stream) if kind == STREAM => stream,
            None if kind == STREAM && op == op::REQUEST && room => {
                self.streams.insert(key, Stream::new(Phase::Asked, header));
                return Effect::Connect(key);
            }
            _ => return self.refuse(key, kind),
        };
        stream.hear(header);
        match (op, stream.phase) {
            (op::RESPONSE, Phase::Requested) if !stream.due.contains(Due::REQUEST) => {
                stream.phase = Phase::Open;
                Effect::Connected(key)
            }
            (op::RW, Phase::Open) if stream.may_receive(header.len.get()) => {
                stream.received += header.len.get();
                if stream.host_receives() {
                    return Effect::Data(key);
                }
                // It was on its way when the guest was told.
                self.forwarded(key, header.len.get())
            }
            (op::SHUTDOWN, Phase::Open) => {
                stream.guest_shut |= header.flags.get() & SHUT_BOTH;
                let flags = stream.guest_shut;
                if self.end_if_done(key) { Effect::Closed(key) } else { Effect::Shutdown(key, flags) }
            }
            (op::CREDIT_UPDATE, _) => Effect::None,
            (op::CREDIT_REQUEST, Phase::Open) => {
                self.set_due(key, Due::CREDIT_UPDATE);
                Effect::None
            }
            _ => self.refuse(key, kind),
        }
    }

    /// Ends a stream by a reset, if there is one.
    fn refuse(&mut self, key: Key, kind: u16) -> Effect {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back((key, kind));
        }
        if self.remove(key) { Effect::Closed(key) } else { Effect::None }
    }

    /// Forgets a stream; whether there was one.
    fn remove(&mut self, key: Key) -> bool {
        let Some(stream) = self.streams.remove(&key) else { return false };
        if stream.queued {
            self.due.retain(|&other| other != key);
        }
        true
    }

    /// The host has connected what the guest asked for.
    pub fn accept(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(&key)
            && stream.phase == Phase::Asked
        {
            stream.phase = Phase::Open;
            self.set_due(key, Due::RESPONSE);
        }
    }

    /// The host's side has failed, or does not want the stream: it is over.
    pub fn abort(&mut self, key: Key) {
        match self.streams.get(&key) {
            // The guest has not heard of it yet.
            Some(stream) if stream.due.contains(Due::REQUEST) => {
                self.remove(key);
            }
            Some(_) => {
                self.refuse(key, STREAM);
            }
            None => {}
        }
    }

    /// The host asks for a connection to a port of the guest; `None` when there are too many streams.
    pub fn open(&mut self, guest: u32) -> Option<Key> {
        if self.streams.len() >= MAX_STREAMS {
            return None;
        }
        // One of this many ports in a row is free, since there are fewer streams.
        let key = (0..=MAX_STREAMS).find_map(|_| {
            let host = self.next_port;
            self.next_port = if host + 1 < LOCAL_PORTS.end { host + 1 } else { LOCAL_PORTS.start };
            let key = Key { host, guest };
            (!self.streams.contains_key(&key)).then_some(key)
        })?;
        self.streams.insert(key, Stream::new(Phase::Requested, &Header::default()));
        self.set_due(key, Due::REQUEST);
        Some(key)
    }

    /// Bytes that may be sent to the guest now. When there is nothing left, the guest is asked for more room.
    pub fn credit(&mut self, key: Key) -> u32 {
        let Some(stream) = self.streams.get(&key) else { return 0 };
        let credit = stream.credit();
        if credit == 0 && stream.may_send() && !stream.asked {
            self.set_due(key, Due::CREDIT_REQUEST);
        }
        credit
    }

    /// The header of packets that bring the guest `len` bytes in all, at most [`Muxer::credit`]. In the header of each,
    /// `len` is what of them it has.
    pub fn send(&mut self, key: Key, len: u32) -> Header {
        let Some(stream) = self.streams.get_mut(&key) else { return self.header(key, op::RST) };
        stream.sent += len;
        stream.tell();
        Header { len: len.into(), ..self.header(key, op::RW) }
    }

    /// So many bytes of the guest have found their way. Whether that was the end of the stream.
    pub fn forwarded(&mut self, key: Key, len: u32) -> Effect {
        let Some(stream) = self.streams.get_mut(&key) else { return Effect::None };
        stream.forwarded += len;
        if self.end_if_done(key) {
            return Effect::Closed(key);
        }
        if self.streams.get(&key).is_some_and(Stream::owes_credit) {
            self.set_due(key, Due::CREDIT_UPDATE);
        }
        Effect::None
    }

    /// The host's side receives or sends no more: flags of [`op::SHUTDOWN`]. Data that was read before has been sent.
    pub fn shut(&mut self, key: Key, flags: u32) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.phase != Phase::Open {
            return self.abort(key);
        }
        if stream.host_shut & flags != flags {
            stream.host_shut |= flags;
            self.set_due(key, Due::SHUTDOWN);
        }
    }

    /// Once the guest does neither send nor receive, and all that it has sent is on its way, the end is confirmed by a
    /// reset (5.10.6.6.2).
    fn end_if_done(&mut self, key: Key) -> bool {
        let done = |stream: &Stream| stream.guest_shut == SHUT_BOTH && stream.received == stream.forwarded;
        let done = self.streams.get(&key).is_some_and(done);
        if done {
            self.refuse(key, STREAM);
        }
        done
    }

    fn set_due(&mut self, key: Key, what: Due) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.due.insert(what);
            if !std::mem::replace(&mut stream.queued, true) {
                self.due.push_back(key);
            }
        }
    }

    /// Whether [`Muxer::next`] has a packet.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.resets.is_empty() || !self.due.is_empty()
    }

    /// The next packet without data for the guest.
    pub fn next(&mut self) -> Option<Header> {
        if let Some((key, kind)) = self.resets.pop_front() {
            return Some(Header { kind: kind.into(), ..self.header(key, op::RST) });
        }
        loop {
            let key = self.due.pop_front()?;
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            let what = stream.due.take_first();
            stream.queued = !stream.due.is_empty();
            if stream.queued {
                self.due.push_back(key);
            }
            // A packet with data may have said it already.
            let Some(what) = what else { continue };
            stream.asked |= what == Due::CREDIT_REQUEST;
            stream.tell();
            let flags = if what == Due::SHUTDOWN { stream.host_shut } else { 0 };
            return Some(Header { flags: flags.into(), ..self.header(key, what.op()) });
        }
    }

    fn header(&self, key: Key, op: u16) -> Header {
        let forwarded = self.streams.get(&key).map_or(Wrapping(0), |stream| stream.forwarded);
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: self.guest_cid.into(),
            src_port: key.host.into(),
            dst_port: key.guest.into(),
            len: 0.into(),
            kind: STREAM.into(),
            op: op.into(),
            flags: 0.into(),
            buf_alloc: BUF_ALLOC.into(),
            fwd_cnt: forwarded.0.into(),
        }
    }

    /// Whether guest and host have agreed on this stream.
    #[must_use]
    pub fn is_open(&self, key: Key) -> bool {
        self.streams.get(&key).is_some_and(|stream| stream.phase == Phase::Open)
    }
}

#[cfg(test)]
mod tests;
