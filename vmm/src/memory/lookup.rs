//! From guest-physical addresses to slices of guest memory, and to what is in them, for those that ask often. vm-memory's
//! own functions have errors with values, and an optimizer for size calls them: each takes several times what it is for.
#![allow(unsafe_code, reason = "parts of slices are made where their bounds have been checked")]

use std::sync::atomic::{AtomicU16, Ordering};

use vm_memory::bitmap::{Bitmap, RefSlice};
use vm_memory::{
    Address, ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileRef, VolatileSlice,
};

use super::{Map, Pages, Slice};

/// A value in guest memory, to be read or written in one go.
pub type Field<'m, T> = VolatileRef<'m, T, RefSlice<'m, Pages>>;

/// A region of a map.
#[derive(Clone, Copy, Debug)]
pub struct Region<'m> {
    start: u64,
    memory: Slice<'m>,
}

impl<'m> Region<'m> {
    /// The `len` bytes from `addr` on, if they are in the region. Even of no bytes, those behind its end are not its own.
    // For every buffer: an optimizer for size would call it.
    #[inline(always)]
    pub fn slice(&self, addr: u64, len: usize) -> Option<Slice<'m>> {
        let offset = addr.wrapping_sub(self.start);
        let is_there = offset < self.memory.len() as u64 && len <= self.memory.len() - offset as usize;
        // SAFETY: offset and length were checked.
        is_there.then(|| unsafe { part(&self.memory, offset as usize, len) })
    }
}

/// Looks addresses up in a map as it was at one moment. Most are in the region that the last one was in, which is then
/// not searched for.
#[derive(Debug)]
pub struct Lookup<'m> {
    map: &'m Map,
    last: Option<Region<'m>>,
}

impl<'m> Lookup<'m> {
    /// For addresses in `map`.
    #[must_use]
    pub fn new(map: &'m Map) -> Self {
        Self { map, last: None }
    }

    /// The region that the last address was in.
    #[inline(always)]
    pub fn last(&self) -> Option<Region<'m>> {
        self.last
    }

    /// The `len` bytes from `addr` on, which have to be in one region; none if they are not.
    // For every buffer: an optimizer for size would call it.
    #[inline(always)]
    pub fn slice(&mut self, addr: u64, len: usize) -> Option<Slice<'m>> {
        match self.last.as_ref().and_then(|region| region.slice(addr, len)) {
            None => self.search(addr, len),
            found => found,
        }
    }

    #[cold]
    fn search(&mut self, addr: u64, len: usize) -> Option<Slice<'m>> {
        let region = self.map.find_region(GuestAddress(addr))?;
        let (start, memory) = (region.start_addr().raw_value(), region.as_volatile_slice().ok()?);
        self.last.insert(Region { start, memory }).slice(addr, len)
    }
}

/// The `len` bytes from byte `offset` on; none if they do not lie in the slice.
#[inline(always)]
pub fn subslice<'m>(of: &Slice<'m>, offset: usize, len: usize) -> Option<Slice<'m>> {
    // SAFETY: offset and length were checked.
    start_of(of, offset, len).map(|_| unsafe { part(of, offset, len) })
}

/// # Safety
///
/// `len` bytes from `offset` on have to lie in the slice.
#[inline(always)]
unsafe fn part<'m>(of: &Slice<'m>, offset: usize, len: usize) -> Slice<'m> {
    let start = of.ptr_guard_mut().as_ptr().wrapping_add(offset);
    // SAFETY: the bytes are within `of`, and have its lifetime.
    unsafe { VolatileSlice::with_bitmap(start, len, of.bitmap().slice_at(offset), None) }
}

/// The value at byte `offset`; none if it does not lie in the slice.
#[inline(always)]
pub fn field<'m, T: ByteValued>(of: &Slice<'m>, offset: usize) -> Option<Field<'m, T>> {
    let start = start_of(of, offset, size_of::<T>())?;
    // SAFETY: the value is within `of`, and has its lifetime.
    Some(unsafe { VolatileRef::with_bitmap(start, of.bitmap().slice_at(offset), None) })
}

/// The little-endian index at byte `offset`, which others may write meanwhile; none if it does not lie in the slice, or is
/// not aligned.
#[inline(always)]
pub fn load_index(of: &Slice<'_>, offset: usize, order: Ordering) -> Option<u16> {
    Some(u16::from_le(index(of, offset)?.load(order)))
}

/// Writes the little-endian index at byte `offset`, which others may read meanwhile; none if it does not lie in the slice,
/// or is not aligned.
#[inline(always)]
pub fn store_index(of: &Slice<'_>, offset: usize, value: u16, order: Ordering) -> Option<()> {
    index(of, offset)?.store(value.to_le(), order);
    of.bitmap().mark_dirty(offset, size_of::<u16>());
    Some(())
}

#[inline(always)]
fn index<'s>(of: &'s Slice<'_>, offset: usize) -> Option<&'s AtomicU16> {
    let start = start_of(of, offset, size_of::<u16>())?.cast::<AtomicU16>();
    // SAFETY: the index is within `of`, aligned, and of a type that may change at any time.
    start.is_aligned().then(|| unsafe { &*start })
}

/// Where `len` bytes from byte `offset` on are, if they lie in the slice.
#[inline(always)]
fn start_of(slice: &Slice<'_>, offset: usize, len: usize) -> Option<*mut u8> {
    let is_there = offset.checked_add(len)? <= slice.len();
    is_there.then(|| slice.ptr_guard_mut().as_ptr().wrapping_add(offset))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use abi::layout::Range;

    use crate::memory::map_of;

    const PAGE: u64 = 4096;

    fn map() -> Map {
        // Two regions that touch, then one behind a hole, and one at the end of all addresses.
        let regions = [(0, 2), (2, 1), (5, 3), ((1 << 52) - 2, 1)];
        map_of(&regions.map(|(page, pages)| Range { start: page * PAGE, len: pages * PAGE }))
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

    fn at() -> impl Strategy<Value = usize> {
        prop_oneof![0..20_usize, usize::MAX - 5..=usize::MAX]
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
                prop_assert_eq!(lookup.slice(addr, len).map(place), expected, "{:#x} {:#x}", addr, len);
            }
        }

        /// A value is where the slice has its bytes, and nowhere else.
        #[test]
        fn values_lie_within_slices(start in 0..PAGE, len in 0..20_usize, offsets in prop::collection::vec(at(), 1..20)) {
            let map = map();
            let slice = Lookup::new(&map).slice(start, len).unwrap();
            let mut bytes = vec![0; len];
            for (value, offset) in (0x0102_0304_u32..).zip(offsets) {
                let there = offset <= len.saturating_sub(4) && len >= 4;
                prop_assert_eq!(field::<u32>(&slice, offset).map(|field| field.store(value)).is_some(), there);
                if there {
                    bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
                    prop_assert_eq!(field::<u32>(&slice, offset).unwrap().load(), value);
                }
                let mut found = vec![0; len];
                slice.copy_to(&mut found);
                prop_assert_eq!(&found, &bytes);
            }
        }

        /// So is an index, which has to be aligned, and what was written there is dirty.
        #[test]
        fn indices_lie_within_slices(start in 0..PAGE, len in 0..20_usize, offset in at(), value in 1..=u16::MAX) {
            let map = map();
            map.iter().for_each(|region| region.get_mmap().bitmap().start());
            let slice = Lookup::new(&map).slice(start, len).unwrap();
            let is_there = len >= 2 && offset <= len - 2 && (start as usize + offset).is_multiple_of(2);
            prop_assert_eq!(store_index(&slice, offset, value, Ordering::Relaxed).is_some(), is_there);
            prop_assert_eq!(load_index(&slice, offset, Ordering::Relaxed), is_there.then_some(value));
            let mut dirty = map.iter().flat_map(|region| region.get_mmap().bitmap().take());
            prop_assert_eq!(dirty.any(|pages| pages != 0), is_there);
            let (mut found, mut bytes) = (vec![0; len], vec![0; len]);
            slice.copy_to(&mut found);
            if is_there {
                bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
            }
            prop_assert_eq!(found, bytes);
        }
    }
}
