//! Descriptors of a chain (2.7.5), in the queue's table and in an indirect one. Each descriptor is copied out once.

use virtio_queue::desc::split::Descriptor;

use crate::memory::{Lookup, Slice, field};

/// Descriptor number `index` of a table, which it has to be in.
#[inline(always)]
pub(super) fn descriptor(table: &Slice<'_>, index: u16) -> Option<Descriptor> {
    Some(field(table, usize::from(index) * size_of::<Descriptor>())?.load())
}

/// Follows a chain.
pub(super) struct Walk<'m> {
    table: Slice<'m>,
    /// Descriptors in the table.
    len: u16,
    next: u16,
    /// Descriptors that may come yet: a chain has no more than its table.
    left: u16,
    indirect: bool,
    bytes: u32,
}

impl<'m> Walk<'m> {
    /// The chain that begins at `head` of a table of `len` descriptors.
    pub fn new(table: Slice<'m>, len: u16, head: u16) -> Self {
        Self { table, len, next: head, left: len, indirect: false, bytes: 0 }
    }

    /// The next descriptor that stands for a buffer; none if the chain cannot be followed.
    pub fn next(&mut self, memory: &mut Lookup<'m>) -> Option<Descriptor> {
        loop {
            if self.next >= self.len {
                return None;
            }
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
    fn enter(&mut self, descriptor: &Descriptor, memory: &mut Lookup<'m>) -> Option<()> {
        let len = descriptor.len() as usize;
        if self.indirect || !len.is_multiple_of(size_of::<Descriptor>()) {
            return None;
        }
        self.len = u16::try_from(len / size_of::<Descriptor>()).ok()?;
        self.table = memory.slice(descriptor.addr().0, len)?;
        (self.next, self.left, self.indirect) = (0, self.len, true);
        Some(())
    }
}
