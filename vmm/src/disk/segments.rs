//! Guest memory as the kernel's vectored calls want it.

use std::io;

use libc::iovec;

use crate::memory::Slice;

/// The most segments that one system call takes (`UIO_MAXIOV`).
const MAX: usize = 1024;

/// What is left of a transfer.
pub struct Segments<L = Vec<iovec>> {
    list: L,
    next: usize,
    /// Bytes that have yet to be transferred; none: all is done.
    left: usize,
}

fn segment(slice: &Slice<'_>) -> iovec {
    iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

impl Segments {
    /// All of `slices`. The addresses are good for as long as the memory stays mapped.
    pub fn new(slices: &[Slice<'_>]) -> Self {
        let mut left = 0;
        let add = |slice: &Slice<'_>| {
            left += slice.len();
            segment(slice)
        };
        let list = slices.iter().map(add).collect();
        let mut all = Self { list, next: 0, left };
        // To the first that is not empty.
        all.advance(0);
        all
    }
}

impl Segments<[iovec; 1]> {
    /// One slice, as most transfers have: it needs no allocation.
    pub fn one(slice: &Slice<'_>) -> Self {
        Self { list: [segment(slice)], next: usize::from(slice.is_empty()), left: slice.len() }
    }

    /// A buffer of our own.
    pub fn of_buffer(buffer: &mut [u8]) -> Self {
        let segment = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        Self { list: [segment], next: usize::from(buffer.is_empty()), left: buffer.len() }
    }
}

impl<L: AsRef<[iovec]> + AsMut<[iovec]>> Segments<L> {
    /// What the next call may be given; empty when all is done.
    pub fn rest(&self) -> &[iovec] {
        let rest = &self.list.as_ref()[self.next..];
        &rest[..rest.len().min(MAX)]
    }

    /// Takes away what a call has done: `bytes`, no more than there were.
    pub fn advance(&mut self, mut bytes: usize) {
        self.left -= bytes;
        if self.left == 0 {
            self.next = self.list.as_ref().len();
            return;
        }
        while let Some(segment) = self.list.as_mut().get_mut(self.next) {
            if bytes < segment.iov_len {
                segment.iov_base = segment.iov_base.wrapping_byte_add(bytes);
                segment.iov_len -= bytes;
                return;
            }
            bytes -= segment.iov_len;
            self.next += 1;
        }
    }

    /// Brings the transfer to its end. `call` is `preadv`, `pwritev` or alike on the segments and the offset that it is
    /// given, and returns what those do.
    pub fn transfer(
        mut self,
        mut offset: u64,
        mut call: impl FnMut(&[iovec], libc::off_t) -> isize,
    ) -> io::Result<()> {
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return Ok(());
            }
            let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            match usize::try_from(call(rest, at)) {
                // The file is shorter than it was, or takes no more.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(done) => {
                    self.advance(done);
                    offset += done as u64;
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Bytes of ours at an address that `O_DIRECT` takes.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zeroes at a multiple of `align`, a power of two.
    pub fn new(len: usize, align: usize) -> Self {
        let bytes = vec![0; len + align];
        let start = bytes.as_ptr().align_offset(align);
        Self { bytes, start, len }
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_after_what_was_done() {
        let (mut a, mut b) = ([0u8; 10], [0u8; 5]);
        let (start_a, start_b) = (a.as_mut_ptr().addr(), b.as_mut_ptr().addr());
        let [first] = Segments::of_buffer(&mut a).list;
        let [second] = Segments::of_buffer(&mut b).list;
        let segments = Segments { list: vec![first, second], next: 0, left: 15 };
        let mut seen = Vec::new();
        let mut results = vec![3, 9, 2, 1].into_iter();
        let call = |rest: &[iovec], offset| {
            let begin = rest[0];
            seen.push((begin.iov_base.addr(), begin.iov_len, rest.len(), offset));
            results.next().unwrap()
        };
        segments.transfer(100, call).unwrap();
        assert_eq!(
            seen,
            [
                (start_a, 10, 2, 100),
                (start_a + 3, 7, 2, 103),
                (start_b + 2, 3, 1, 112),
                (start_b + 4, 1, 1, 114)
            ]
        );
        let shorter = Segments::of_buffer(&mut a).transfer(0, |_, _| 0).unwrap_err();
        assert_eq!(shorter.kind(), io::ErrorKind::UnexpectedEof);
        assert!(Segments::of_buffer(&mut a).transfer(u64::MAX, |_, _| 1).is_err());
        Segments::of_buffer(&mut []).transfer(0, |_, _| unreachable!("there is nothing to do")).unwrap();
    }
}
