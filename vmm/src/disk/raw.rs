//! Raw images: a file or a block device, byte for byte.
#![allow(
    unsafe_code,
    reason = "scattered reads and writes on guest memory, to which there are no references"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use libc::{c_int, iovec, off_t};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;

use super::segments::{AlignedBuffer, Segments};
use super::{Backend, Geometry, Operation};
use crate::memory::Slice;

/// Bytes of zeroes that are written at once where the file system cannot make zeroes itself.
const ZEROES: usize = 64 << 10;

/// A raw image on which each operation is system calls that end before it returns.
#[derive(Debug)]
pub struct Raw {
    file: File,
    geometry: Geometry,
    /// What addresses and lengths in memory have to be multiples of: more than 1 with `O_DIRECT`.
    align: usize,
}

impl Raw {
    /// The image in `file`. Addresses and lengths in memory have to be multiples of `align`, a power of two.
    #[must_use]
    pub fn new(file: File, geometry: Geometry, align: usize) -> Self {
        Self { file, geometry, align }
    }

    fn read(&self, offset: u64, to: &[Slice<'_>]) -> io::Result<()> {
        let call = |rest: &[iovec], offset| self.preadv(rest, offset);
        match to {
            // Whoever began it notes which pages it fills.
            [one] if self.is_aligned(to) => return Segments::one(one).transfer(offset, call),
            _ if self.is_aligned(to) => return Segments::new(to).transfer(offset, call),
            _ => {}
        }
        let mut bounce = AlignedBuffer::new(total(to), self.align);
        Segments::of_buffer(bounce.bytes()).transfer(offset, call)?;
        let mut from: &[u8] = bounce.bytes();
        for slice in to {
            slice.copy_from(from);
            from = &from[slice.len()..];
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[Slice<'_>], durable: bool) -> io::Result<()> {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let call = |rest: &[iovec], offset| self.pwritev(rest, offset, flags);
        match from {
            [one] if self.is_aligned(from) => return Segments::one(one).transfer(offset, call),
            _ if self.is_aligned(from) => return Segments::new(from).transfer(offset, call),
            _ => {}
        }
        let mut bounce = AlignedBuffer::new(total(from), self.align);
        let mut to = bounce.bytes();
        for slice in from {
            slice.copy_to(&mut *to);
            to = &mut to[slice.len()..];
        }
        Segments::of_buffer(bounce.bytes()).transfer(offset, call)
    }

    pub(super) fn preadv(&self, segments: &[iovec], offset: off_t) -> isize {
        let fd = self.file.as_raw_fd();
        match segments {
            // The kernel has less to do for one, and so has libc for a call by number: others can be cancelled.
            // SAFETY: the segments are guest memory that stays mapped as long as its slices, or a buffer of ours. What
            // the guest does to its memory meanwhile is its own affair.
            [one] => unsafe {
                libc::syscall(libc::SYS_pread64, fd, one.iov_base, one.iov_len, offset) as isize
            },
            // SAFETY: as above.
            _ => unsafe { libc::preadv(fd, segments.as_ptr(), segments.len() as c_int, offset) },
        }
    }

    pub(super) fn pwritev(&self, segments: &[iovec], offset: off_t, flags: c_int) -> isize {
        let (fd, count) = (self.file.as_raw_fd(), segments.len() as c_int);
        match segments {
            // SAFETY: as above; the kernel only reads them.
            [one] if flags == 0 => unsafe {
                libc::syscall(libc::SYS_pwrite64, fd, one.iov_base, one.iov_len, offset) as isize
            },
            // SAFETY: as above.
            _ => unsafe { libc::pwritev2(fd, segments.as_ptr(), count, offset, flags) },
        }
    }

    /// Makes the range read as zeroes, its space given back if `unmap`, where the file system knows how; else by
    /// writing them.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let zero = FallocateFlags::ZERO_RANGE;
        let how = if unmap { FallocateFlags::PUNCH_HOLE } else { zero };
        for how in [how, zero] {
            match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, len) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                done => return Ok(done?),
            }
        }
        let mut zeroes = AlignedBuffer::new(ZEROES, self.align);
        let (mut offset, mut len) = (offset, len);
        while len > 0 {
            let now = len.min(ZEROES as u64);
            let part = &mut zeroes.bytes()[..now as usize];
            Segments::of_buffer(part).transfer(offset, |rest, offset| self.pwritev(rest, offset, 0))?;
            (offset, len) = (offset + now, len - now);
        }
        Ok(())
    }

    /// Reads what the page cache has without waiting for more: so many bytes.
    pub(super) fn read_cached(&self, segments: &[iovec], offset: u64) -> usize {
        let (fd, count) = (self.file.as_raw_fd(), segments.len() as c_int);
        let Ok(offset) = off_t::try_from(offset) else { return 0 };
        // SAFETY: as above.
        let done = unsafe { libc::preadv2(fd, segments.as_ptr(), count, offset, libc::RWF_NOWAIT) };
        usize::try_from(done).unwrap_or(0)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
            // It is advice.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Whether buffers can be given to the kernel as they are.
    pub(super) fn is_aligned(&self, slices: &[Slice<'_>]) -> bool {
        let aligned =
            |slice: &Slice<'_>| (slice.ptr_guard().as_ptr().addr() | slice.len()).is_multiple_of(self.align);
        self.align == 1 || slices.iter().all(aligned)
    }
}

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Backend for Raw {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn start(&mut self, _: u16, operation: &Operation<'_>) -> Option<io::Result<()>> {
        Some(match *operation {
            Operation::Read { offset, to } => self.read(offset, to),
            Operation::Write { offset, from, durable } => self.write(offset, from, durable),
            Operation::WriteZeroes { offset, len, unmap, durable } => {
                let zeroed = self.write_zeroes(offset, len, unmap);
                if durable { zeroed.and_then(|()| self.flush()) } else { zeroed }
            }
            Operation::Discard { offset, len } => self.discard(offset, len),
            Operation::Flush => self.flush(),
        })
    }
}

fn total(slices: &[Slice<'_>]) -> usize {
    slices.iter().map(Slice::len).sum()
}
