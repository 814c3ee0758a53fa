//! System calls that tell only by being made whether this process may make them.
#![allow(unsafe_code, reason = "io_uring_setup and userfaultfd are unsafe to call, though not to try")]

use rustix::io::Result;
use rustix::io_uring::{io_uring_params, io_uring_setup};
use rustix::mm::{UserfaultfdFlags, userfaultfd};

/// Sets an io_uring of one entry up, and closes it.
pub fn try_io_uring() -> Result<()> {
    let mut params = io_uring_params::default();
    // SAFETY: no flag asks for memory of ours; the ring is closed unused.
    unsafe { io_uring_setup(1, &mut params) }.map(drop)
}

/// Makes a userfaultfd, as one that handles faults of the kernel too, and closes it.
pub fn try_userfaultfd() -> Result<()> {
    // SAFETY: no memory is registered with it.
    unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) }.map(drop)
}
