//! Reads and writes of descriptors straight from and to guest memory, without a copy in between.
#![allow(
    unsafe_code,
    reason = "the kernel is given addresses of guest memory, to which there are no references"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::iovec;
use smallvec::SmallVec;
use vm_memory::bitmap::Bitmap;

use super::queue::Buffers;
use crate::memory::Slice;

/// `UIO_MAXIOV`: the kernel takes no more pieces at once.
pub const MOST: usize = 1024;

fn pieces(buffers: &[Slice<'_>]) -> SmallVec<[iovec; 4]> {
    // Regions of guest memory stay mapped while there are slices of them.
    let piece = |buffer: &Slice<'_>| iovec {
        iov_base: buffer.ptr_guard_mut().as_ptr().cast(),
        iov_len: buffer.len(),
    };
    buffers.iter().take(MOST).map(piece).collect()
}

/// readv(2): the bytes that were read, into one buffer after the other and then into `spill`.
pub fn readv(fd: &impl AsFd, buffers: &[Slice<'_>], spill: &mut [u8]) -> io::Result<usize> {
    let mut pieces = pieces(buffers);
    if !spill.is_empty() && pieces.len() < MOST {
        pieces.push(iovec { iov_base: spill.as_mut_ptr().cast(), iov_len: spill.len() });
    }
    // SAFETY: every piece but the last is mapped guest memory, which may change at any time, and to which nothing
    // refers; the last is borrowed for this call.
    let len = unsafe { libc::readv(fd.as_fd().as_raw_fd(), pieces.as_ptr(), pieces.len() as i32) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    mark_dirty(buffers, len);
    Ok(len)
}

/// writev(2): how many bytes were written.
pub fn writev(fd: &impl AsFd, buffers: &[Slice<'_>]) -> io::Result<usize> {
    let pieces = pieces(buffers);
    // SAFETY: every piece is mapped guest memory, which may change at any time.
    let len = unsafe { libc::writev(fd.as_fd().as_raw_fd(), pieces.as_ptr(), pieces.len() as i32) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Notes that the first `len` bytes were written.
fn mark_dirty(buffers: &[Slice<'_>], mut len: usize) {
    for buffer in buffers {
        if len == 0 {
            return;
        }
        let here = len.min(buffer.len());
        buffer.bitmap().mark_dirty(0, here);
        len -= here;
    }
}

/// The part of `buffers` from byte `skip` on, `len` bytes at most.
#[must_use]
pub fn part<'m>(buffers: &[Slice<'m>], skip: usize, len: usize) -> Buffers<'m> {
    parts(buffers, skip, len).collect()
}

/// As [`part`], one after the other.
pub fn parts<'b, 'm>(
    buffers: &'b [Slice<'m>],
    mut skip: usize,
    mut len: usize,
) -> impl Iterator<Item = Slice<'m>> + use<'b, 'm> {
    let piece = move |buffer: &Slice<'m>| {
        if len == 0 {
            return None;
        }
        let from = skip.min(buffer.len());
        skip -= from;
        let here = len.min(buffer.len() - from);
        len -= here;
        // Within the buffer, so that it never fails.
        Some(buffer.subslice(from, here).ok().filter(|_| here > 0))
    };
    buffers.iter().map_while(piece).flatten()
}

/// Copies bytes out of `buffers`, from byte `skip` on: how many there were, up to the length of `to`.
pub fn copy_out(buffers: &[Slice<'_>], skip: usize, to: &mut [u8]) -> usize {
    let mut done = 0;
    for slice in parts(buffers, skip, to.len()) {
        done += slice.copy_to(&mut to[done..]);
    }
    done
}

/// Copies bytes into `buffers`, from byte `skip` on: how many had room.
pub fn copy_in(buffers: &[Slice<'_>], skip: usize, from: &[u8]) -> usize {
    let mut done = 0;
    for slice in parts(buffers, skip, from.len()) {
        slice.copy_from(&from[done..]);
        done += slice.len();
    }
    done
}
