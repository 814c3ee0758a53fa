//! Advisory locks on whole images, so that two writers, or a writer and readers, do not meet. They belong to the open
//! file description (`F_OFD_SETLK`), and QEMU's and Cloud Hypervisor's locks on the same image conflict with them.
#![allow(unsafe_code, reason = "no safe crate of ours wraps locks of open file descriptions")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks the whole file: alone for one that writes, together with others for readers.
///
/// Fails with [`io::ErrorKind::WouldBlock`] while somebody holds a lock that conflicts. A file system without locks
/// is no reason to fail.
pub fn lock(file: &File, alone: bool) -> io::Result<()> {
    let kind = if alone { libc::F_WRLCK } else { libc::F_RDLCK };
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the structure lives through the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(io::ErrorKind::WouldBlock.into()),
        Some(libc::EOPNOTSUPP | libc::ENOLCK | libc::ENOSYS) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_or_many_readers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (first, second, third) = (open(), open(), open());
        lock(&first, false).unwrap();
        lock(&second, false).unwrap();
        assert_eq!(lock(&third, true).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        drop(second);
        lock(&third, true).unwrap();
        assert_eq!(lock(&open(), false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        lock(&third.try_clone().unwrap(), true).expect("a duplicate is the same open file");
    }
}
