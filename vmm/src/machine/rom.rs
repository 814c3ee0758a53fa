//! Read-only memory that ends at 4 GiB.

use std::io;
use std::os::unix::fs::FileExt;

use abi::layout::{self, ROM_SHADOW, Range};
use vm_memory::{MmapRegion, VolatileMemory};

use super::Error;
use crate::boot::FilePart;
use crate::memory::{Memory, Slot};

/// A ROM image in memory of its own, for a read-only slot.
#[derive(Debug)]
pub struct Rom {
    mapping: MmapRegion<()>,
}

impl Rom {
    /// Reads an image, whose size the loader has checked, and puts the copy of its end that real mode reaches into
    /// `memory`.
    pub fn new(image: &FilePart, memory: &Memory) -> Result<Self, Error> {
        let size = image.len as usize;
        let mapping = MmapRegion::new(size).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        image.file.read_exact_at(&mut bytes, image.offset)?;
        mapping.as_volatile_slice().copy_from(&bytes);
        let shadow = &bytes[size.saturating_sub(ROM_SHADOW.len as usize)..];
        memory.write(ROM_SHADOW.end() - shadow.len() as u64, shadow)?;
        Ok(Self { mapping })
    }

    /// Where it is.
    #[must_use]
    pub fn slot(&self) -> Slot {
        let len = self.mapping.size() as u64;
        Slot { range: Range { start: layout::ROM.end() - len, len }, host: self.mapping.as_ptr() as u64 }
    }
}
