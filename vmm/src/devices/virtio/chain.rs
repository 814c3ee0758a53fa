//! What a queue gives to a device: buffers of the driver's, one after the other.

use smallvec::SmallVec;

use crate::memory::Slice;

/// A list of buffers, which most chains need no allocation for.
pub type Buffers<'m> = SmallVec<[Slice<'m>; 2]>;

/// A chain of buffers that the driver made available, or several one after the other, of which head and length are the
/// last one's. Nothing in it is read twice: what a device decides by, it copies out first.
#[derive(Debug, Default)]
pub struct Chain<'m> {
    /// What gives it back: see [`super::Rings::push`].
    pub head: u16,
    /// Buffers to read from, in their order.
    pub readable: Buffers<'m>,
    /// Buffers to write to, in their order.
    pub writable: Buffers<'m>,
    /// Bytes of both.
    pub len: u32,
}

impl Chain<'_> {
    /// Has no buffers any more, but the room that they took for those of the next.
    pub fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}

/// Bytes in a list of buffers.
#[must_use]
pub fn total(buffers: &[Slice<'_>]) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}
