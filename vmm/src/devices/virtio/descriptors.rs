//! Descriptors of a chain (2.7.5), in the queue's table and in an indirect one. What is checked of a
//! descriptor and what is used is one copy of it.

use std::iter;

use virtio_queue::desc::split::Descriptor;

use crate::memory::{Lookup, Region, Slice, field};

/// The most buffers of one chain, whatever the length of an indirect table: as many as QEMU takes.
pub(super) const MAX_CHAIN: u16 = 1024;

/// Descriptor number `index` of a table, which it has to be in.
#[inline(always)]
pub(super) fn descriptor(table: &Slice<'_>, index: u16) -> Option<Descriptor> {
    Some(field(table, usize::from(index) * size_of::<Descriptor>())?.load())
}

/// Follows a chain.
pub(super) struct Walk<'m> {
    /// All descriptors there are.
    table: Slice<'m>,
    next: u16,
    /// Descriptors that may come yet: a chain has no more than its table.
    left: u16,
    /// What `left` was at first.
    first: u16,
    indirect: bool,
    bytes: u64,
}

impl<'m> Walk<'m> {
    /// The chain that begins at `head` of a table of `len` descriptors.
    pub fn new(table: Slice<'m>, len: u16, head: u16) -> Self {
        let left = len.min(MAX_CHAIN);
        Self { table, next: head, left, first: left, indirect: false, bytes: 0 }
    }

    /// How many there may be from the last one on.
    pub fn left(&self) -> usize {
        usize::from(self.left) + 1
    }

    /// Bytes of the buffers so far; of a whole chain they are less than 4 GiB.
    pub fn len(&self) -> u32 {
        self.bytes as u32
    }

    /// The next descriptor that stands for a buffer; none if the chain cannot be followed.
    // For every buffer: an optimizer for size would call it.
    #[inline(always)]
    pub fn next(&mut self, memory: &mut Lookup<'m>) -> Option<Descriptor> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let descriptor = descriptor(&self.table, self.next)?;
            if descriptor.refers_to_indirect_table() {
                self.enter(&descriptor, memory)?;
                continue;
            }
            self.bytes += u64::from(descriptor.len());
            self.next = descriptor.next();
            // A chain has less than 4 GiB (2.7.5.2).
            return (self.bytes <= u32::MAX.into()).then_some(descriptor);
        }
    }

    /// The buffers that follow for as long as their descriptors have these flags, of which one has to be that another
    /// follows, and they lie in this region, as nearly all of a long chain do. [`Walk::next`] goes on from there.
    #[inline(always)]
    pub fn alike(&mut self, flags: u16, region: Region<'m>) -> impl Iterator<Item = Slice<'m>> {
        iter::from_fn(move || {
            let left = self.left.checked_sub(1)?;
            let descriptor = descriptor(&self.table, self.next)?;
            if descriptor.flags() != flags {
                return None;
            }
            let buffer = region.slice(descriptor.addr().0, descriptor.len() as usize)?;
            self.bytes += u64::from(descriptor.len());
            (self.left, self.next) = (left, descriptor.next());
            Some(buffer)
        })
    }

    /// Goes on in an indirect table, which stands in no other (2.7.5.3.1).
    #[inline(never)]
    fn enter(&mut self, descriptor: &Descriptor, memory: &mut Lookup<'m>) -> Option<()> {
        let len = descriptor.len() as usize;
        if self.indirect || !len.is_multiple_of(size_of::<Descriptor>()) {
            return None;
        }
        let there = u16::try_from(len / size_of::<Descriptor>()).ok()?;
        // This one is no buffer.
        let before = self.first - self.left - 1;
        (self.next, self.left, self.indirect) = (0, there.min(MAX_CHAIN - before), true);
        self.table = memory.slice(descriptor.addr().0, len)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use abi::layout::Range;
    use proptest::prelude::*;
    use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::QueueT;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::devices::virtio::{Chain, Queue};
    use crate::memory::{Map, PAGE, map_of};

    /// Descriptors of the queue, and in the indirect table.
    const LEN: usize = 64;
    /// Where that is; the queue's own is at 0.
    const INDIRECT: u64 = 0x2000;
    /// One region ends here and another begins.
    const BORDER: u64 = 0x4000;
    const END: u64 = 0x6000;

    const NEXT: u16 = VRING_DESC_F_NEXT as u16;
    const WRITE: u16 = VRING_DESC_F_WRITE as u16;
    const ENTER: u16 = VRING_DESC_F_INDIRECT as u16;

    type Places = Vec<(u64, usize)>;

    fn map() -> Map {
        map_of(&[Range { start: 0, len: BORDER }, Range { start: BORDER, len: END - BORDER }])
    }

    fn any_descriptor() -> impl Strategy<Value = Descriptor> {
        let buffer = (BORDER - 64..END + 8, prop_oneof![9 => 0..100_u32, 1 => any::<u32>()], 0..4_u16);
        let enter = prop_oneof![9 => (0..=LEN as u32).prop_map(|len| 16 * len), 1 => 0..100_u32];
        let what = prop_oneof![3 => buffer, 1 => enter.prop_map(|len| (INDIRECT, len, ENTER))];
        (what, 0..LEN as u16 + 4)
            .prop_map(|((addr, len, flags), next)| Descriptor::new(addr, len, flags, next))
    }

    /// A chain in its order, some readable and then some writable, of which a few descriptors are anything.
    fn table() -> impl Strategy<Value = Vec<Descriptor>> {
        let odd = prop::collection::vec((0..LEN, any_descriptor()), 0..3);
        (0..LEN, 1..=LEN, odd).prop_map(|(readable, len, odd)| {
            let one = |at: usize| {
                let flags = if at < readable { 0 } else { WRITE } | if at + 1 < len { NEXT } else { 0 };
                Descriptor::new(BORDER - 512 + 16 * at as u64, at as u32 % 17, flags, at as u16 + 1)
            };
            let mut table: Vec<_> = (0..LEN).map(one).collect();
            odd.into_iter().for_each(|(at, descriptor)| table[at] = descriptor);
            table
        })
    }

    /// Readable and writable buffers of a chain, by the letter (2.7.5).
    fn by_the_letter(map: &Map, direct: &[Descriptor], indirect: &[Descriptor]) -> Option<(Places, Places)> {
        let (mut table, mut at, mut seen, mut bytes) = (direct, 0, 0, 0);
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        loop {
            let descriptor = table.get(at).filter(|_| seen < table.len())?;
            seen += 1;
            let (addr, len) = (descriptor.addr().0, descriptor.len() as usize);
            if descriptor.refers_to_indirect_table() {
                let is_first = table.as_ptr() == direct.as_ptr();
                (table, at, seen) = (indirect.get(..len / 16).filter(|_| is_first && len % 16 == 0)?, 0, 0);
                continue;
            }
            bytes += len;
            let place =
                (map.get_slice(GuestAddress(addr), len).ok()?.ptr_guard().as_ptr().addr() as u64, len);
            match descriptor.is_write_only() {
                true => writable.push(place),
                false if writable.is_empty() => readable.push(place),
                false => return None,
            }
            if !descriptor.has_next() {
                return u32::try_from(bytes).is_ok().then_some((readable, writable));
            }
            at = descriptor.next().into();
        }
    }

    fn places(buffers: &[Slice<'_>]) -> Places {
        buffers.iter().map(|buffer| (buffer.ptr_guard().as_ptr().addr() as u64, buffer.len())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is taken at a time, a chain has the buffers that it has by the letter.
        #[test]
        fn chains_are_followed_by_the_letter(direct in table(), indirect in table(), enter: bool) {
            let map = map();
            let mut direct = direct;
            if enter {
                direct[0] = Descriptor::new(INDIRECT, 16 * LEN as u32, ENTER, 0);
            }
            for (at, table) in [(0, &direct), (INDIRECT, &indirect)] {
                for (descriptor, place) in table.iter().zip((at..).step_by(16)) {
                    map.write_obj(*descriptor, GuestAddress(place)).unwrap();
                }
            }
            let mut queue = Queue::new(0, LEN as u16).unwrap();
            let (avail, used) = (PAGE as u32, PAGE as u32 + 512);
            let ring = queue.ring();
            ring.set_desc_table_address(Some(0), Some(0));
            ring.set_avail_ring_address(Some(avail), Some(0));
            ring.set_used_ring_address(Some(used), Some(0));
            ring.set_ready(true);
            map.write_obj(1_u16, GuestAddress(u64::from(avail) + 2)).unwrap();
            let mut lookup = Lookup::new(&map);
            let mut areas = queue.areas(&mut lookup).unwrap();
            let mut chain = Chain::default();
            let popped = queue.pop(&mut lookup, &mut areas, &mut chain);
            let found = popped.is_ok_and(|there| there).then(|| (places(&chain.readable), places(&chain.writable)));
            if let Some((readable, writable)) = &found {
                prop_assert_eq!(readable.iter().chain(writable).map(|place| place.1).sum::<usize>(), chain.len as usize);
            }
            prop_assert_eq!(found, by_the_letter(&map, &direct, &indirect));
        }
    }
}
