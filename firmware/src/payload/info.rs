//! The place below 1 MiB where a payload finds what it is told, filled from its start.

use abi::layout::Range;
use zerocopy::{Immutable, IntoBytes};

use super::Error;
use crate::machine::Machine;
use crate::places::INFO;

/// What is left of [`INFO`].
pub struct Info {
    next: u64,
    end: u64,
}

impl Default for Info {
    fn default() -> Self {
        Self { next: INFO.start, end: INFO.end() }
    }
}

impl Info {
    /// Takes the next `len` bytes, from a multiple of 8.
    pub fn take(&mut self, len: u64) -> Result<u64, Error> {
        let start = self.next.next_multiple_of(8);
        let end = start.checked_add(len).filter(|&end| end <= self.end).ok_or(Error::Info)?;
        self.next = end;
        Ok(start)
    }

    /// Writes a value behind what is there.
    pub fn put<T: IntoBytes + Immutable>(
        &mut self,
        machine: &mut impl Machine,
        value: T,
    ) -> Result<u64, Error> {
        let at = self.take(size_of::<T>() as u64)?;
        machine.write(at, value);
        Ok(at)
    }

    /// Copies a string from memory and ends it with NUL.
    pub fn string(&mut self, machine: &mut impl Machine, from: u64, len: u32) -> Result<u64, Error> {
        let at = self.take(u64::from(len) + 1)?;
        machine.copy(from, at, len as usize);
        machine.write(at + u64::from(len), 0u8);
        Ok(at)
    }

    /// What is taken.
    pub fn used(&self) -> Range {
        Range::new(INFO.start, self.next.max(INFO.start + 1))
    }
}
