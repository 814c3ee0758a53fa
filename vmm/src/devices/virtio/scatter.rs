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

use super::chain::Buffers;
use crate::memory::{Slice, subslice};

/// `UIO_MAXIOV`: the kernel takes no more pieces at once.
pub const MOST: usize = 1024;

/// A list for the kernel, which needs no allocation for what is usual.
type Pieces = SmallVec<[iovec; 32]>;

/// Appends what the kernel is given for `buffers`. Those that touch are one piece: Linux takes a network card's buffers from
/// larger areas, one after the other, and the kernel does for each piece what it does for each copy.
fn append(pieces: &mut Pieces, buffers: &[Slice<'_>]) {
    let mut last = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    // Regions of guest memory stay mapped while there are slices of them.
    for buffer in buffers.iter().take(MOST) {
        let (start, len) = (buffer.ptr_guard_mut().as_ptr().cast(), buffer.len());
        if last.iov_base.wrapping_byte_add(last.iov_len) != start {
            if last.iov_len > 0 {
                pieces.push(last);
            }
            last = iovec { iov_base: start, iov_len: 0 };
        }
        last.iov_len += len;
    }
    pieces.push(last);
}

/// readv(2): the bytes that were read, into one buffer after the other and then into `spill`.
pub fn readv(fd: &impl AsFd, buffers: &[Slice<'_>], spill: &mut [u8]) -> io::Result<usize> {
    let mut pieces = Pieces::new();
    append(&mut pieces, buffers);
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
    let mut pieces = Pieces::new();
    append(&mut pieces, buffers);
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
        Some(subslice(buffer, from, here).filter(|_| here > 0))
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
    // Headers nearly always have all their room there.
    if let Some(first) = buffers.first()
        && skip == 0
        && first.len() >= from.len()
    {
        first.copy_from(from);
        return from.len();
    }
    let mut done = 0;
    for slice in parts(buffers, skip, from.len()) {
        slice.copy_from(&from[done..]);
        done += slice.len();
    }
    done
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;
    use vm_memory::VolatileSlice;

    use super::*;
    use crate::memory::{PAGE, Pages};

    proptest! {
        /// Bytes go into one buffer after the other, whether they touch or not, and what was written is dirty.
        #[test]
        fn reads_fill_buffers_in_their_order(
            buffers in prop::collection::vec((any::<bool>(), 0..2 * PAGE), 1..50),
            extra in 0..200_usize,
        ) {
            let room = buffers.iter().map(|(_, len)| len).sum::<usize>();
            let pages = Pages::new(room + buffers.len() * PAGE, None);
            let mut memory = vec![0_u8; room + buffers.len() * PAGE];
            let (mut slices, mut places, mut at) = (Vec::new(), Vec::new(), 0);
            for (apart, len) in buffers {
                at += if apart { PAGE } else { 0 };
                // SAFETY: the bytes are there as long as the slices are, and nobody else looks at them meanwhile.
                slices.push(unsafe {
                    VolatileSlice::with_bitmap(memory.as_mut_ptr().wrapping_add(at), len, pages.slice_at(at), None)
                });
                places.extend(at..at + len);
                at += len;
            }
            let sent: Vec<u8> = (0..(room + extra).min(60_000)).map(|i| (i % 251 + 1) as u8).collect();
            let (mut far, near) = UnixStream::pair().unwrap();
            far.write_all(&sent).unwrap();
            pages.start();
            let mut spill = vec![0; 100];
            let len = readv(&near, &slices, &mut spill).unwrap();
            prop_assert_eq!(len, sent.len().min(room + spill.len()));
            let (direct, rest) = sent[..len].split_at(len.min(room));
            let mut expected = vec![0; memory.len()];
            let mut dirty = vec![0; memory.len().div_ceil(64 * PAGE)];
            for (place, byte) in places.into_iter().zip(direct) {
                expected[place] = *byte;
                dirty[place / PAGE / 64] |= 1 << (place / PAGE % 64);
            }
            prop_assert!(memory == expected);
            prop_assert_eq!(&spill[..rest.len()], rest);
            prop_assert_eq!(pages.take(), dirty);
        }
    }
}
