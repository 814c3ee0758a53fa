//! Signals that end a VM, taken as they come from a descriptor instead of by a handler.
#![allow(unsafe_code, reason = "signal masks and signalfd have no safe wrapper in the crates we use")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

use vmm_sys_util::signal::{create_sigset, register_signal_handler};

/// The signals that end a VM.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The signals that stop and continue us: with them, a terminal in raw mode is given back and taken again.
const STOPPING: [i32; 2] = [libc::SIGTSTP, libc::SIGCONT];

/// The terminal has another size.
const RESIZED: [i32; 1] = [libc::SIGWINCH];

/// What a signal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That the VM ends, because of the signal of this number.
    End(u8),
    /// That the process stops: [`Signals::stop`] does it.
    Stop,
    /// Nothing any more: the process has been continued.
    Continued,
    /// That the guest learns of the terminal's new size.
    Resized,
}

/// SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT and SIGWINCH, blocked for all threads that are started from now on, and readable
/// here.
#[derive(Debug)]
pub struct Signals(File);

/// Brings a vCPU's thread out of `KVM_RUN`, and does nothing else.
extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Signals {
    /// Takes over the process's signals. One that was ignored when we were started (`nohup`) stays so.
    pub fn take_over() -> io::Result<Self> {
        register_signal_handler(libc::SIGUSR1, kicked)?;
        // A parent that takes its own signals from a descriptor may have left it blocked.
        mask(libc::SIG_UNBLOCK, &create_sigset(&[libc::SIGUSR1])?)?;
        // An ignored signal that is blocked would be kept for us nevertheless.
        let ours: Vec<_> =
            ENDING.into_iter().chain(STOPPING).chain(RESIZED).filter(|&signal| !is_ignored(signal)).collect();
        let set = create_sigset(&ours)?;
        mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: the set is a valid one; the kernel gives a new descriptor or an error.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// What a signal that has come wants.
    #[must_use]
    pub fn take(&self) -> Option<Wish> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        (&self.0).read_exact(&mut info).ok()?;
        // `ssi_signo` is the first field.
        let [number, ..] = info;
        Some(match number.into() {
            libc::SIGTSTP => Wish::Stop,
            libc::SIGCONT => Wish::Continued,
            libc::SIGWINCH => Wish::Resized,
            _ => Wish::End(number),
        })
    }

    /// Stops the process until it is continued, or not at all where nobody could do that: the kernel knows.
    pub fn stop(&self) -> io::Result<()> {
        let set = create_sigset(&[libc::SIGTSTP])?;
        // SAFETY: the signal is blocked, and waits until it no longer is.
        unsafe { libc::raise(libc::SIGTSTP) };
        mask(libc::SIG_UNBLOCK, &set)?;
        mask(libc::SIG_BLOCK, &set)
    }
}

/// Changes the signal mask of this thread, and so of those that it starts.
fn mask(how: i32, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is a valid one, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed, and the result goes into a structure of ours.
    let known = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } == 0;
    known && action.sa_sigaction == libc::SIG_IGN
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_parent_has_set_up_is_minded() {
        // Masks belong to a thread, so to one of our own.
        let test = || {
            // SAFETY: no handler; no other test has to do with this signal.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
            mask(libc::SIG_BLOCK, &create_sigset(&[libc::SIGUSR1]).unwrap()).unwrap();
            let signals = Signals::take_over().unwrap();
            for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGTERM] {
                // SAFETY: goes to this thread, where it is ignored, handled or blocked.
                unsafe { libc::raise(signal) };
            }
            assert_eq!((signals.take(), signals.take()), (Some(Wish::End(libc::SIGTERM as u8)), None));
            // SAFETY: all zeros is a valid set, and is filled in before it is looked at.
            let mut now: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: only asks.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut now) };
            // SAFETY: the set is a valid one.
            let blocked = |signal| unsafe { libc::sigismember(&raw const now, signal) } == 1;
            assert!(!blocked(libc::SIGUSR1) && !blocked(libc::SIGHUP) && blocked(libc::SIGTERM));
        };
        std::thread::spawn(test).join().unwrap();
    }
}
