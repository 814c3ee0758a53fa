//! Signals that end a VM, taken as they come from a descriptor instead of by a handler.
#![allow(unsafe_code, reason = "signal masks and signalfd have no safe wrapper in the crates we use")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

use vmm_sys_util::signal::{create_sigset, register_signal_handler};

/// The signals that end a VM.
const ENDING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// SIGINT, SIGTERM and SIGHUP, blocked for all threads that are started from now on, and readable here.
#[derive(Debug)]
pub struct Signals(File);

/// Brings a vCPU's thread out of `KVM_RUN`, and does nothing else.
extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Signals {
    /// Takes over the process's signals. One that was ignored when we were started (`nohup`) stays so.
    pub fn take_over() -> io::Result<Self> {
        register_signal_handler(libc::SIGUSR1, kicked)?;
        let set = create_sigset(&ENDING)?;
        // SAFETY: the set is a valid one.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: as above; the kernel gives a new descriptor or an error.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// The number of a signal that has come.
    #[must_use]
    pub fn take(&self) -> Option<u8> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        (&self.0).read_exact(&mut info).ok()?;
        // `ssi_signo` is the first field.
        let [number, ..] = info;
        Some(number)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
