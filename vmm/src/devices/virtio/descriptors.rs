//! Descriptors of a chain (2.7.5), in the queue's table and in an indirect one. Each descriptor is copied out once.

use virtio_queue::desc::split::Descriptor;

use crate::memory::{Lookup, Slice, field};

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
    bytes: u32,
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
            // A chain has less than 4 GiB (2.7.5.2).
            self.bytes = self.bytes.checked_add(descriptor.len())?;
            self.next = descriptor.next();
            return Some(descriptor);
        }
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
