//! The part of the F segment where tables go that old systems look for between 0xf0000 and 1 MiB.

use crate::places::TABLES;

/// What is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FSegment {
    next: u64,
}

impl Default for FSegment {
    fn default() -> Self {
        Self { next: TABLES.start }
    }
}

impl FSegment {
    /// Takes some bytes, from a multiple of `align`, a power of two, and of 16, where tables are looked for.
    pub fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(align.max(16))?;
        self.next = start.checked_add(len).filter(|&end| end <= TABLES.end())?;
        Some(start)
    }
}
