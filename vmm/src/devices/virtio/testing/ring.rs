//! The driver's side of a queue.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub addr: u64,
    pub len: usize,
    pub writable: bool,
}

/// The driver's side of a queue.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub size: u16,
    pub avail: u16,
    pub used: u16,
    /// Descriptors that no chain was made of yet.
    fresh: Range<u16>,
    /// Those that came back.
    pub free: VecDeque<u16>,
    pub offered: BTreeMap<u16, (Vec<u16>, Vec<Buffer>)>,
}

impl Ring {
    /// Nothing was offered yet. A driver starts anew so often that a list of all descriptors would take long to make.
    pub(super) fn new(size: u16) -> Self {
        Self { size, fresh: 0..size, ..Self::default() }
    }

    /// A descriptor that no chain in flight is made of.
    pub(super) fn descriptor(&mut self) -> u16 {
        self.fresh.next().or_else(|| self.free.pop_front()).unwrap()
    }
}
