//! A mapping of our own: aligned, and unmapped when the last who knows it lets go.
#![allow(unsafe_code, reason = "mmap, munmap and madvise act on addresses")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// What x86 maps by one entry of a page directory.
pub const HUGE_PAGE: usize = 2 << 20;

/// Memory of this process for a region of the guest's.
#[derive(Debug)]
pub struct Mapping {
    addr: *mut c_void,
    len: usize,
    populated: bool,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference only the address can be had.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file`, or of nothing, at an address that is a multiple of `align` (a power of two).
    pub fn new(len: usize, align: usize, flags: MapFlags, file: Option<&File>) -> io::Result<Self> {
        // Most kernels align large mappings themselves, and then this is all.
        let plain = Self::at(ptr::null_mut(), len, flags, file)?;
        if plain.addr.addr().is_multiple_of(align) {
            return Ok(plain);
        }
        drop(plain);
        let reserved = len.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the kernel chooses the place.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                flags & MapFlags::NORESERVE | MapFlags::PRIVATE,
            )
        }?;
        let reservation = Self { addr: start, len: reserved, populated: false };
        let head = start.addr().next_multiple_of(align) - start.addr();
        let aligned = Self::at(start.wrapping_byte_add(head), len, flags | MapFlags::FIXED, file)?;
        std::mem::forget(reservation);
        let tail = start.wrapping_byte_add(head + len);
        for (addr, len) in [(start, head), (tail, align - head)] {
            drop(Self { addr, len, populated: false });
        }
        Ok(aligned)
    }

    fn at(addr: *mut c_void, len: usize, flags: MapFlags, file: Option<&File>) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the address is null, or inside a reservation of ours that nobody else knows.
        let anonymous = || unsafe { mmap_anonymous(addr, len, access, flags) };
        // SAFETY: as above.
        let of_file = |file| unsafe { mmap(addr, len, access, flags, file, 0) };
        let addr = file.map_or_else(anonymous, of_file)?;
        Ok(Self { addr, len, populated: flags.contains(MapFlags::POPULATE) })
    }

    /// Address of the first byte.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.addr.cast()
    }

    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.len
    }

    /// Whether all of its pages were had when it was made.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        self.populated
    }

    /// Asks for transparent huge pages.
    pub fn advise_huge(&self) -> io::Result<()> {
        // SAFETY: the range is ours, and the advice does not change contents.
        Ok(unsafe { madvise(self.addr, self.len, Advice::LinuxHugepage) }?)
    }

    /// Has pages ready for writing, where the kernel can (Linux 5.14).
    pub fn populate(&self, offset: usize, len: usize) {
        let end = offset.saturating_add(len).min(self.len);
        if let Some(len) = end.checked_sub(offset) {
            // Without it, pages come when they are touched.
            // SAFETY: the range is ours, and the advice does not change contents.
            let _ = unsafe { madvise(self.addr.wrapping_byte_add(offset), len, Advice::LinuxPopulateWrite) };
        }
    }

    /// Asks that what would be the first huge page be small ones.
    pub fn advise_small_start(&self) -> io::Result<()> {
        // SAFETY: as above.
        match unsafe { madvise(self.addr, self.len.min(HUGE_PAGE), Advice::LinuxNoHugepage) } {
            // A kernel without transparent huge pages has nothing to be asked against.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            result => Ok(result?),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and who had its address has let go. Fails for an empty range only.
        let _ = unsafe { munmap(self.addr, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_whatever_the_kernel_does() {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        for (len, align) in [(16 << 20, HUGE_PAGE), (16 << 20, 1 << 30), (4096, 1 << 30)] {
            let mapping = Mapping::new(len, align, flags, None).unwrap();
            assert!(mapping.as_ptr().addr().is_multiple_of(align), "{len:#x} {align:#x}");
            for at in [0, len - 1] {
                // SAFETY: a byte of the mapping.
                unsafe { mapping.as_ptr().wrapping_add(at).write(1) };
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        assert!(Mapping::new(usize::MAX & !0xfff, HUGE_PAGE, MapFlags::PRIVATE, None).is_err());
    }
}
