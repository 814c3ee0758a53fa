//! Where loaders read from: the seam that lets tests and fuzzers hand over plain bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::KernelError;

/// Bytes that can be read at any offset.
pub trait ReadAt {
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buf` with the bytes from `offset` on; fewer than asked for is an error.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

/// Reads `len` bytes at `offset` of a source of `size` bytes; nothing is allocated for bytes that are not there.
pub fn read_vec<R: ReadAt + ?Sized>(
    source: &R,
    size: u64,
    what: &'static str,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, KernelError> {
    let end = offset.saturating_add(len);
    if end > size {
        return Err(KernelError::Truncated { what, end, size });
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    source.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
