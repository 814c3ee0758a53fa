//! From guest-physical addresses to slices of guest memory, for those that ask often.

use vm_memory::volatile_memory::Error;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{Map, Slice};

/// Looks addresses up in a map as it was at one moment. Most are in the region that the last one was in, which is then
/// not searched for.
#[derive(Debug)]
pub struct Lookup<'m> {
    map: &'m Map,
    /// Where the region of the last address begins, and its memory.
    last: Option<(u64, Slice<'m>)>,
}

impl<'m> Lookup<'m> {
    /// For addresses in `map`.
    #[must_use]
    pub fn new(map: &'m Map) -> Self {
        Self { map, last: None }
    }

    /// The `len` bytes from `addr` on, which have to be in one region.
    #[inline]
    pub fn slice(&mut self, addr: u64, len: usize) -> Result<Slice<'m>, Error> {
        match &self.last {
            Some((start, region)) if addr.wrapping_sub(*start) < region.len() as u64 => {
                region.subslice((addr - start) as usize, len)
            }
            _ => self.search(addr, len),
        }
    }

    #[cold]
    fn search(&mut self, addr: u64, len: usize) -> Result<Slice<'m>, Error> {
        let region = self.map.find_region(GuestAddress(addr));
        let found = region.and_then(|region| Some((region.start_addr(), region.as_volatile_slice().ok()?)));
        let (start, all) = found.ok_or(Error::OutOfBounds { addr: addr as usize })?;
        self.last = Some((start.raw_value(), all));
        all.subslice((addr - start.raw_value()) as usize, len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::Pages;
    use vm_memory::GuestRegionMmap;

    const PAGE: u64 = 4096;

    fn map() -> Map {
        // Two regions that touch, then one behind a hole, and one at the end of all addresses.
        let regions = [(0, 2), (2, 1), (5, 3), ((1 << 52) - 2, 1)].map(|(page, pages)| {
            let bitmap = Pages::new((pages * PAGE) as usize, None);
            let region = vm_memory::mmap::MmapRegionBuilder::new_with_bitmap((pages * PAGE) as usize, bitmap)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
                .build()
                .unwrap();
            GuestRegionMmap::new(region, GuestAddress(page * PAGE)).unwrap()
        });
        Map::from_regions(regions.into()).unwrap()
    }

    fn addresses() -> impl Strategy<Value = u64> {
        let near = |page: u64| (page * PAGE).wrapping_sub(3)..=page * PAGE + 3;
        prop_oneof![
            0..10 * PAGE,
            prop::sample::select(vec![1_u64, 2, 3, 5, 8, (1 << 52) - 2, (1 << 52) - 1]).prop_flat_map(near),
            any::<u64>(),
        ]
    }

    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![0..10_usize, 0..4 * PAGE as usize, any::<usize>()]
    }

    proptest! {
        /// Whatever was asked for before, an address gives what the map itself gives.
        #[test]
        fn is_the_same_as_asking_the_map(asked in prop::collection::vec((addresses(), lengths()), 1..50)) {
            let map = map();
            let mut lookup = Lookup::new(&map);
            for (addr, len) in asked {
                let place = |slice: Slice<'_>| (slice.ptr_guard().as_ptr().addr(), slice.len());
                let expected = map.get_slice(GuestAddress(addr), len).ok().map(place);
                prop_assert_eq!(lookup.slice(addr, len).ok().map(place), expected, "{:#x} {:#x}", addr, len);
            }
        }
    }
}
