//! Guest memory that the kernel looks up once for a ring (`IORING_REGISTER_BUFFERS`), and not for each request anew.
//!
//! It holds all pages of what it has looked up, so they have to be there: only memory that was had beforehand is given to
//! it. Elsewhere a guest would have all of its memory at its first request, and give none of it back.
#![allow(
    unsafe_code,
    reason = "the kernel is given addresses of guest memory, to which there are no references"
)]

use std::io;
use std::sync::Arc;

use io_uring::IoUring;
use libc::iovec;
use vm_memory::{GuestMemoryBackend, GuestRegionMmap};

use crate::memory::{Map, Mapping, Pages};

/// The kernel takes no larger ones.
const LARGEST: usize = 1 << 30;

/// What a ring knows.
#[derive(Debug)]
pub(super) struct Fixed {
    /// Address and length of each, by its number.
    areas: Vec<(usize, usize)>,
    /// Keeps these addresses from being those of other memory.
    _map: Arc<Map>,
}

impl Fixed {
    /// Registers what of the guest's memory was had beforehand. An error where there is none, or the kernel refuses:
    /// there may be a limit to what can be locked (`RLIMIT_MEMLOCK`).
    pub fn register(ring: &IoUring, map: Arc<Map>) -> io::Result<Self> {
        let populated = |region: &GuestRegionMmap<Pages>| {
            let mmap = region.get_mmap();
            mmap.bitmap().mapping().filter(|mapping| mapping.is_populated()).map(areas)
        };
        let areas: Vec<_> = map.iter().filter_map(populated).flatten().collect();
        let piece = |&(start, len): &(usize, usize)| iovec { iov_base: start as *mut _, iov_len: len };
        let pieces: Vec<iovec> = areas.iter().map(piece).collect();
        // SAFETY: it is mapped memory, which may change at any time; the kernel holds its pages itself.
        unsafe { ring.submitter().register_buffers(&pieces) }?;
        Ok(Self { areas, _map: map })
    }

    /// The number of the one that all of `piece` is in.
    pub fn index(&self, piece: &iovec) -> Option<u16> {
        let start = piece.iov_base.addr();
        let is_in = |&(at, len): &(usize, usize)| {
            start.checked_sub(at).is_some_and(|offset| offset <= len && piece.iov_len <= len - offset)
        };
        self.areas.iter().position(is_in)?.try_into().ok()
    }
}

fn areas(mapping: &Mapping) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (start, len) = (mapping.as_ptr().addr(), mapping.size());
    (0..len).step_by(LARGEST).map(move |offset| (start + offset, LARGEST.min(len - offset)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HugePages, MemorySpec};
    use crate::memory::Memory;
    use crate::memory::layout::RamLayout;

    #[test]
    fn memory_that_is_there_is_registered() {
        let size = 4 << 20;
        for prealloc in [true, false] {
            let spec = MemorySpec { size, huge: HugePages::Default, prealloc, shared: false };
            let map = Memory::new(&spec, &RamLayout::new(size)).unwrap().map();
            let start = map.iter().next().unwrap().as_ptr();
            let ring = IoUring::new(1).unwrap();
            let fixed = Fixed::register(&ring, map);
            assert_eq!(fixed.is_ok(), prealloc, "{fixed:?}");
            let index = |offset: usize, len| {
                let piece = iovec { iov_base: start.wrapping_add(offset).cast(), iov_len: len };
                fixed.as_ref().ok().and_then(|fixed| fixed.index(&piece))
            };
            let found = prealloc.then_some(0);
            let end = size as usize;
            assert_eq!([index(0, end), index(end - 512, 512)], [found; 2]);
            assert_eq!([index(end - 512, 513), index(end + 1, 1), index(usize::MAX, 1)], [None; 3]);
        }
    }
}
