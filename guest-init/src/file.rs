//! Whole files, read into memory.

use alloc::vec::Vec;
use core::ffi::CStr;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::{self, Errno};

/// The bytes of a file, `FBIG` if there are more than `limit`.
pub fn read(path: &CStr, limit: usize) -> Result<Vec<u8>, Errno> {
    let file = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Files in /proc say that they are empty.
    let size = usize::try_from(fs::fstat(&file)?.st_size).unwrap_or(0);
    if size > limit {
        return Err(Errno::FBIG);
    }
    let mut bytes = Vec::with_capacity(size.max(256) + 1);
    loop {
        match io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > limit => return Err(Errno::FBIG),
            Ok(_) => bytes.reserve(256),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
