//! The host's end of each stream: a Unix socket, and bytes of the guest that wait because its reader is slow.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use vmm_sys_util::epoll::EventSet;

use super::TIMER;
use super::muxer::{Key, MAX_STREAMS};
use super::packet::{Header, SHUT_RECEIVE, SHUT_SEND};
use crate::devices::virtio::Context;
use crate::devices::virtio::scatter::{copy_out, part, writev};
use crate::memory::Slice;

/// Places for connections: streams, and host programs that have not said yet what they want.
const PLACES: usize = 2 * MAX_STREAMS;
/// Edge-triggered: one who may not be read yet costs nothing. Room for more is no event before it is waited for, since
/// there is some more each time the other end reads.
const EVENTS: EventSet = EventSet::IN.union(EventSet::READ_HANG_UP).union(EventSet::EDGE_TRIGGERED);
const _: () = assert!(PLACES < TIMER as usize);

/// The host's end of a stream.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    /// None until the host program has said what it wants.
    key: Option<Key>,
    /// Reading is worth a try.
    pub(super) readable: bool,
    /// It stands in the line of those that are read.
    queued: bool,
    /// The other end has been closed, or will send no more: what is left has to be read up to its end.
    pub(super) hung_up: bool,
    /// Its end has been read.
    ended: bool,
    /// Buffers that are offered to the next read.
    pub(super) burst: usize,
    /// Bytes of the guest that wait; at most what it was granted.
    backlog: VecDeque<u8>,
    /// It is watched for room for them.
    blocked: bool,
    /// The guest sends no more, which its reader has to learn.
    last: bool,
    /// Nobody is there to receive.
    gone: bool,
}

/// What came of writing to a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Bytes that wait no more.
    pub(super) len: u32,
    /// Nobody is there to receive; found out just now.
    pub(super) gone: bool,
}

impl Socket {
    fn new(fd: OwnedFd, key: Option<Key>) -> Self {
        Self {
            fd,
            key,
            readable: false,
            queued: false,
            hung_up: false,
            ended: false,
            burst: 1,
            backlog: VecDeque::new(),
            blocked: false,
            last: false,
            gone: false,
        }
    }

    /// Writes what waits.
    fn flush(&mut self) -> Written {
        let mut written = Written::default();
        while !self.backlog.is_empty() && !self.gone {
            let (front, _) = self.backlog.as_slices();
            match rustix::io::write(&self.fd, front) {
                Ok(len) => {
                    self.backlog.drain(..len);
                    written.len += len as u32;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return written,
                Err(_) => written.gone = true,
            }
            self.gone |= written.gone;
        }
        if self.gone {
            written.len += self.backlog.len() as u32;
            self.backlog = VecDeque::new();
        } else {
            self.end_if_last();
        }
        written
    }

    /// Tells the reader of the end, once all that was before it has been written.
    fn end_if_last(&mut self) {
        if self.last && self.backlog.is_empty() {
            // Once: it is an event for whoever watches the socket. It fails when the other end is gone.
            self.last = false;
            let _ = shutdown(&self.fd, Shutdown::Write);
        }
    }

    /// Writes a packet's data, behind what waits already; what has no room waits.
    fn write(&mut self, packet: &[Slice<'_>], len: usize) -> Written {
        let mut written = self.flush();
        let mut direct = 0;
        if self.backlog.is_empty() && !self.gone {
            match writev(&self.fd, &part(packet, Header::LEN, len)) {
                Ok(len) => direct = len,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => (self.gone, written.gone) = (true, true),
            }
        }
        if self.gone {
            written.len += len as u32;
            return written;
        }
        if direct < len {
            let mut rest = vec![0; len - direct];
            copy_out(packet, Header::LEN + direct, &mut rest);
            self.backlog.extend(rest);
        }
        written.len += direct as u32;
        written
    }

    /// Whether the other end has been closed altogether, so that it does not receive either.
    fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        polled == Ok(1) && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// The end has been read: what of the stream that ends.
    pub(super) fn end(&mut self) -> u32 {
        (self.readable, self.ended) = (false, true);
        if self.is_closed() { SHUT_SEND | SHUT_RECEIVE } else { SHUT_SEND }
    }
}

/// All of them. Each has a place, by whose number its descriptor is watched.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    places: Vec<Option<Socket>>,
    free: Vec<u32>,
    by_key: BTreeMap<Key, u32>,
    /// Places of those that have something for the guest.
    line: VecDeque<u32>,
}

impl Sockets {
    /// Takes a connection in, for a stream or for a host program that has not said yet what it wants.
    pub(super) fn add(&mut self, cx: &mut Context<'_>, fd: OwnedFd, key: Option<Key>) -> io::Result<()> {
        let fresh = self.places.len();
        if self.free.is_empty() && fresh == PLACES {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let place = self.free.last().copied().unwrap_or(fresh as u32);
        cx.watch(&fd, place, EVENTS)?;
        if self.free.pop().is_none() {
            self.places.push(None);
        }
        self.places[place as usize] = Some(Socket::new(fd, key));
        self.by_key.extend(key.map(|key| (key, place)));
        Ok(())
    }

    pub(super) fn remove(&mut self, cx: &mut Context<'_>, place: u32) {
        let Some(socket) = self.places.get_mut(place as usize).and_then(Option::take) else { return };
        cx.unwatch(&socket.fd);
        if let Some(key) = socket.key {
            self.by_key.remove(&key);
        }
        if socket.queued {
            self.line.retain(|&other| other != place);
        }
        self.free.push(place);
    }

    pub(super) fn find(&self, key: Key) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&mut self, place: u32) -> Option<&mut Socket> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    fn of(&mut self, key: Key) -> Option<&mut Socket> {
        self.get(self.find(key)?)
    }

    /// The stream that has this place.
    pub(super) fn key(&self, place: u32) -> Option<Key> {
        self.places.get(place as usize)?.as_ref()?.key
    }

    /// The descriptor at this place, if the host program has yet to say what it wants.
    pub(super) fn undecided(&self, place: u32) -> Option<&OwnedFd> {
        self.places
            .get(place as usize)?
            .as_ref()
            .filter(|socket| socket.key.is_none())
            .map(|socket| &socket.fd)
    }

    /// The host program has said what it wants.
    pub(super) fn decide(&mut self, place: u32, key: Key) {
        if let Some(socket) = self.get(place) {
            socket.key = Some(key);
            // It may have sent something behind its request.
            socket.readable = true;
            self.by_key.insert(key, place);
        }
    }

    /// The guest has accepted: the host program is told, as it expects it.
    pub(super) fn greet(&mut self, key: Key) {
        if let Some(socket) = self.of(key) {
            // There is room for it in a new socket; who is gone already does not miss it.
            let _ = rustix::io::write(&socket.fd, format!("OK {}\n", key.host).as_bytes());
        }
    }

    /// Writes the data of a packet.
    pub(super) fn write(&mut self, key: Key, packet: &[Slice<'_>], len: usize) -> Written {
        let nowhere = Written { len: len as u32, gone: false };
        self.of(key).map_or(nowhere, |socket| socket.write(packet, len))
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, key: Key) -> Written {
        self.of(key).map(Socket::flush).unwrap_or_default()
    }

    /// Has a socket watched for room while bytes wait.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>, key: Key) {
        let Some(place) = self.find(key) else { return };
        let Some(socket) = self.get(place) else { return };
        let blocked = !socket.backlog.is_empty();
        if socket.blocked != blocked {
            let events = if blocked { EVENTS | EventSet::OUT } else { EVENTS };
            // Room that there is already is an event then. Fails only for a descriptor that is not watched.
            let _ = cx.watch(&socket.fd, place, events);
            socket.blocked = blocked;
        }
    }

    /// The guest receives or sends no more.
    pub(super) fn shut(&mut self, key: Key, flags: u32) {
        let Some(socket) = self.of(key) else { return };
        if flags & SHUT_RECEIVE != 0 {
            // Fails when the other end is gone.
            let _ = shutdown(&socket.fd, Shutdown::Read);
        }
        socket.last |= flags & SHUT_SEND != 0;
        socket.end_if_last();
    }

    /// Takes note of what has happened to a socket; if it was closed after its end had been read, what of the stream
    /// ends by that.
    pub(super) fn note(&mut self, place: u32, events: EventSet) -> Option<u32> {
        let socket = self.get(place)?;
        let hang_up = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        socket.hung_up |= events.intersects(hang_up);
        if socket.ended {
            return socket.is_closed().then_some(SHUT_RECEIVE);
        }
        if events.intersects(EventSet::IN | hang_up) {
            socket.readable = true;
            self.line_up(place);
        }
        None
    }

    /// A stream may have become able to bring something to the guest.
    pub(super) fn wake(&mut self, key: Key) -> bool {
        self.find(key).is_some_and(|place| self.line_up(place))
    }

    fn line_up(&mut self, place: u32) -> bool {
        let Some(socket) = self.get(place) else { return false };
        let lines_up = socket.readable && !std::mem::replace(&mut socket.queued, true);
        if lines_up {
            self.line.push_back(place);
        }
        lines_up
    }

    /// The next place in the line, which leaves it.
    pub(super) fn next(&mut self) -> Option<u32> {
        let place = self.line.pop_front()?;
        if let Some(socket) = self.get(place) {
            socket.queued = false;
        }
        Some(place)
    }

    /// Puts a place back to the head of the line, where it was taken from.
    pub(super) fn not_yet(&mut self, place: u32) {
        if let Some(socket) = self.get(place) {
            socket.queued = true;
            self.line.push_front(place);
        }
    }

    /// Puts a place at the end of the line, if there may be more to read.
    pub(super) fn again(&mut self, place: u32) {
        self.line_up(place);
    }

    /// Whether the line is empty.
    pub(super) fn is_idle(&self) -> bool {
        self.line.is_empty()
    }
}
