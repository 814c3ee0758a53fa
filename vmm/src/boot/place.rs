//! Memory writes: what goes where in guest memory, and the one way in which it gets there.
#![allow(unsafe_code, reason = "files are read into guest memory, to which there are no references")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::relocs::Relocs;

/// How much of a file that is changed on its way passes through a buffer at once: little enough to stay in a core's own cache.
const CHUNK: u64 = 256 << 10;

/// Bytes for a place in guest memory.
#[derive(Debug)]
pub struct MemoryWrite {
    /// Guest-physical address.
    pub addr: u64,
    /// What goes there.
    pub data: Payload,
}

/// Where the bytes of a [`MemoryWrite`] come from.
#[derive(Debug)]
pub enum Payload {
    /// Bytes made by the loader.
    Bytes(Vec<u8>),
    /// A part of a file, copied (or mapped) only when it is placed.
    File(FilePart),
    /// A part of a file in which the virtual addresses of a kernel change.
    Relocated {
        /// The part.
        part: FilePart,
        /// How its words change.
        relocation: Arc<Relocation>,
        /// The address in terms of `relocation` of the part's first byte.
        start: u64,
    },
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct FilePart {
    /// The file, opened for reading.
    pub file: Arc<File>,
    /// First byte in the file.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// How the words of a kernel change that goes to another virtual address than it was linked for.
#[derive(Debug)]
pub struct Relocation {
    /// What is added to its virtual addresses.
    pub offset: u64,
    /// Which words hold one.
    pub relocs: Relocs,
}

impl MemoryWrite {
    /// Bytes made by the loader, for address `addr`.
    #[must_use]
    pub const fn bytes(addr: u64, bytes: Vec<u8>) -> Self {
        Self { addr, data: Payload::Bytes(bytes) }
    }

    /// How many bytes are written.
    #[must_use]
    pub const fn len(&self) -> u64 {
        match &self.data {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File(part) | Payload::Relocated { part, .. } => part.len,
        }
    }

    /// Whether nothing is written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes to `memory`, the guest memory from [`Self::addr`] on, [`Self::len`] bytes of it. A file that has
    /// become shorter since it was looked at is an error.
    pub fn place<B: BitmapSlice>(&self, memory: &VolatileSlice<'_, B>) -> io::Result<()> {
        match &self.data {
            Payload::Bytes(bytes) => {
                memory.subslice(0, bytes.len()).map_err(io::Error::other)?.copy_from(bytes);
                Ok(())
            }
            Payload::File(part) => read(part, memory),
            Payload::Relocated { part, relocation, start } => {
                let Relocation { offset, relocs } = &**relocation;
                let boundary = |end| relocs.boundary(start + end).saturating_sub(*start);
                copy(part, memory, boundary, |at, bytes| relocs.apply(*offset, start + at, bytes))
            }
        }
    }
}

/// Has the kernel copy a part of a file.
fn read<B: BitmapSlice>(part: &FilePart, memory: &VolatileSlice<'_, B>) -> io::Result<()> {
    let len = usize::try_from(part.len).map_err(io::Error::other)?;
    let memory = memory.subslice(0, len).map_err(io::Error::other)?;
    let to = memory.ptr_guard_mut();
    let mut done = 0;
    while done < len {
        let offset = i64::try_from(part.offset + done as u64).map_err(io::Error::other)?;
        // SAFETY: there are `len - done` bytes from there on, which live as long as the guard.
        let count = unsafe {
            libc::pread(part.file.as_raw_fd(), to.as_ptr().wrapping_add(done).cast(), len - done, offset)
        };
        match usize::try_from(count) {
            Ok(0) => return Err(shrunk()),
            Ok(count) => done += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    memory.bitmap().mark_dirty(0, len);
    Ok(())
}

fn shrunk() -> io::Error {
    io::Error::other("the file that goes there became shorter while it was read: start again")
}

/// Copies a part of a file chunk by chunk. `boundary` may move the end of a chunk down (both count from the part's
/// start); `change` gets each chunk, and where it starts, before it is written.
fn copy<B: BitmapSlice>(
    part: &FilePart,
    memory: &VolatileSlice<'_, B>,
    boundary: impl Fn(u64) -> u64,
    change: impl Fn(u64, &mut [u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; part.len.min(CHUNK) as usize];
    let mut at = 0;
    while at < part.len {
        let mut end = part.len.min(at + CHUNK);
        if end < part.len {
            // A chunk never gets empty: the words of a sound table are 8 bytes at most and apart.
            end = Some(boundary(end)).filter(|cut| (at + 1..end).contains(cut)).unwrap_or(end);
        }
        let chunk = &mut buffer[..(end - at) as usize];
        part.file.read_exact_at(chunk, part.offset + at).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => shrunk(),
            _ => e,
        })?;
        change(at, chunk);
        memory.subslice(at as usize, chunk.len()).map_err(io::Error::other)?.copy_from(chunk);
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_part_of_a_file_is_placed() {
        let part = FilePart { file: testing::file(&[1, 2, 3, 4, 5]), offset: 1, len: 3 };
        let mut memory = [0; 4];
        let write = MemoryWrite { addr: 0, data: Payload::File(part) };
        write.place(&VolatileSlice::from(&mut memory[..])).unwrap();
        assert_eq!(memory, [2, 3, 4, 0]);
        assert!(write.place(&VolatileSlice::from(&mut memory[..2])).is_err());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let part = FilePart { file: testing::file(&[7; 10]), offset: 0, len: 20 };
        let mut memory = [0; 20];
        let write = MemoryWrite { addr: 0, data: Payload::File(part) };
        let error = write.place(&VolatileSlice::from(&mut memory[..])).unwrap_err().to_string();
        assert!(error.contains("became shorter"), "{error}");
    }
}
