//! Raw images by io_uring: what would have to wait for a disk goes on in the background, so that neither other
//! requests nor other devices wait with it. What the host's page cache has is done at once, which is cheaper.
#![allow(unsafe_code, reason = "the kernel works on buffers while the program goes on")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use libc::iovec;

use super::fixed::Fixed;
use super::segments::Segments;
use super::{Backend, Geometry, Operation, Raw};
use crate::memory::{Map, Slice};

/// Entries of the ring; the device starts no more at once.
const ENTRIES: u32 = 256;

/// A raw image by io_uring.
pub struct Uring {
    raw: Raw,
    /// Whether the page cache is in between.
    cached: bool,
    /// There when it is first needed: a disk of which all is in the page cache never needs it.
    ring: Option<IoUring>,
    /// What is registered with the ring before its first operation.
    memory: Option<Arc<Map>>,
    /// What was.
    fixed: Option<Fixed>,
    running: Vec<Option<Transfer>>,
    ended: VecDeque<(u16, io::Result<()>)>,
}

/// What goes on in the background.
struct Transfer {
    segments: Segments,
    offset: u64,
    kind: Kind,
}

// SAFETY: its segments are addresses in mappings that belong to the process; the caller keeps them.
unsafe impl Send for Transfer {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write { durable: bool },
    Flush,
}

impl Uring {
    /// The image `raw`, which the page cache has if `cached`.
    pub fn new(raw: Raw, cached: bool) -> Self {
        let (ring, memory, fixed) = (None, None, None);
        Self { raw, cached, ring, memory, fixed, running: Vec::new(), ended: VecDeque::new() }
    }

    /// Makes the ring if it is not there yet. The error is what a kernel says that has no io_uring, or does not let us.
    pub fn ring(&mut self) -> io::Result<()> {
        if self.ring.is_none() {
            self.ring = Some(IoUring::builder().setup_clamp().build(ENTRIES)?);
        }
        if let (Some(ring), Some(map)) = (&self.ring, self.memory.take()) {
            self.fixed = Fixed::register(ring, map).ok();
        }
        Ok(())
    }

    /// Reads what the page cache has; what is left is read in the background.
    fn read(&mut self, id: u16, mut offset: u64, to: &[Slice<'_>]) -> Option<io::Result<()>> {
        let mut segments = Segments::new(to);
        if self.cached {
            let done = self.raw.read_cached(segments.rest(), offset);
            segments.advance(done);
            offset += done as u64;
        }
        self.begin(id, Transfer { segments, offset, kind: Kind::Read })
    }

    fn begin(&mut self, id: u16, transfer: Transfer) -> Option<io::Result<()>> {
        if transfer.kind != Kind::Flush && transfer.segments.rest().is_empty() {
            return Some(Ok(()));
        }
        let made = self.ring();
        let entry = entry(&self.raw, &transfer, self.fixed.as_ref()).user_data(id.into());
        // Without io_uring it is waited for.
        let (Ok(()), Some(ring)) = (made, &mut self.ring) else { return Some(self.finish(transfer)) };
        loop {
            // SAFETY: the segments are kept below, and their memory by the caller, until the operation has ended.
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                break;
            }
            if let Err(error) = enter(ring, 0) {
                return Some(Err(error));
            }
        }
        let slot = usize::from(id);
        if self.running.len() <= slot {
            self.running.resize_with(slot + 1, || None);
        }
        self.running[slot] = Some(transfer);
        None
    }

    /// Does what is left of a transfer, and waits for it.
    fn finish(&self, transfer: Transfer) -> io::Result<()> {
        let Transfer { segments, offset, kind } = transfer;
        match kind {
            Kind::Read => segments.transfer(offset, |rest, offset| self.raw.preadv(rest, offset)),
            Kind::Write { durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                segments.transfer(offset, |rest, offset| self.raw.pwritev(rest, offset, flags))
            }
            Kind::Flush => self.raw.flush(),
        }
    }

    /// Takes note of an operation's end. One that did a part is brought to its end here: at the end of a file that has
    /// become shorter, mostly.
    fn end(&mut self, id: u16, result: i32) {
        let Some(mut transfer) = self.running.get_mut(usize::from(id)).and_then(Option::take) else { return };
        let result = match usize::try_from(result) {
            Ok(0) if transfer.kind != Kind::Flush => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if transfer.kind == Kind::Flush => Ok(()),
            Ok(done) => {
                transfer.segments.advance(done);
                transfer.offset += done as u64;
                if transfer.segments.rest().is_empty() { Ok(()) } else { self.finish(transfer) }
            }
            Err(_) if -result == libc::EAGAIN || -result == libc::EINTR => self.finish(transfer),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        self.ended.push_back((id, result));
    }

    fn reap(&mut self) {
        loop {
            // One at a time: its end may take the ring.
            let next = self.ring.as_mut().and_then(|ring| ring.completion().next());
            let Some(entry) = next else { return };
            self.end(entry.user_data() as u16, entry.result());
        }
    }
}

impl Backend for Uring {
    fn geometry(&self) -> Geometry {
        self.raw.geometry()
    }

    fn prepare(&mut self, memory: &Arc<Map>) {
        // Who has asked for the page cache seldom waits for the disk.
        if !self.cached && self.fixed.is_none() {
            self.memory = Some(Arc::clone(memory));
        }
    }

    fn start(&mut self, id: u16, operation: &Operation<'_>) -> Option<io::Result<()>> {
        match *operation {
            // What is copied first, is copied at once.
            Operation::Read { to, .. } if !self.raw.is_aligned(to) => self.raw.start(id, operation),
            Operation::Read { offset, to } => self.read(id, offset, to),
            // A write to the page cache is a copy.
            Operation::Write { from, durable, .. }
                if self.cached && !durable || !self.raw.is_aligned(from) =>
            {
                self.raw.start(id, operation)
            }
            Operation::Write { offset, from, durable } => {
                let kind = Kind::Write { durable };
                self.begin(id, Transfer { segments: Segments::new(from), offset, kind })
            }
            Operation::Flush => {
                self.begin(id, Transfer { segments: Segments::new(&[]), offset: 0, kind: Kind::Flush })
            }
            Operation::WriteZeroes { .. } | Operation::Discard { .. } => self.raw.start(id, operation),
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        if ring.submission().is_empty() { Ok(()) } else { enter(ring, 0) }
    }

    fn completed(&mut self) -> Option<(u16, io::Result<()>)> {
        if self.ended.is_empty() {
            self.reap();
        }
        self.ended.pop_front()
    }

    fn wait(&mut self) -> io::Result<()> {
        if self.ended.is_empty()
            && let Some(ring) = &mut self.ring
            && ring.completion().is_empty()
        {
            return enter(ring, 1);
        }
        Ok(())
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring's descriptor is open as long as the ring, which is borrowed for as long.
        self.ring.as_ref().map(|ring| unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) })
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Memory and segments must outlast what the kernel does with them.
        while self.running.iter().any(Option::is_some) {
            let _ = self.submit();
            let _ = self.wait();
            self.reap();
        }
    }
}

fn entry(raw: &Raw, transfer: &Transfer, fixed: Option<&Fixed>) -> squeue::Entry {
    let Transfer { segments, offset, kind } = transfer;
    let (fd, rest) = (types::Fd(raw.as_raw_fd()), segments.rest());
    let (list, count) = (rest.as_ptr().cast::<iovec>(), rest.len() as u32);
    if let [piece] = rest
        && let Some(index) = fixed.and_then(|fixed| fixed.index(piece))
    {
        let (start, len) = (piece.iov_base.cast::<u8>(), piece.iov_len as u32);
        match *kind {
            Kind::Read => return opcode::ReadFixed::new(fd, start, len, index).offset(*offset).build(),
            Kind::Write { durable } => {
                let entry = opcode::WriteFixed::new(fd, start, len, index).offset(*offset);
                return entry.rw_flags(if durable { libc::RWF_DSYNC } else { 0 }).build();
            }
            Kind::Flush => {}
        }
    }
    match *kind {
        Kind::Read => opcode::Readv::new(fd, list, count).offset(*offset).build(),
        Kind::Write { durable } => {
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            opcode::Writev::new(fd, list, count).offset(*offset).rw_flags(flags).build()
        }
        Kind::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
    }
}

/// Hands over what was pushed, and waits for so many to end.
fn enter(ring: &IoUring, wanted: usize) -> io::Result<()> {
    loop {
        match ring.submit_and_wait(wanted) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
