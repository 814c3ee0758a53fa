//! Where stamps come from.
#![allow(unsafe_code, reason = "clock_gettime has no safe wrapper that gives nanoseconds of a named clock")]

use std::mem::MaybeUninit;

/// A moment, as one thread sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// Nanoseconds of CPU time that the thread has used since it was made.
    pub cpu: u64,
    /// Tells threads that live at the same time apart.
    pub thread: usize,
}

/// A source of stamps.
pub trait Clock {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    fn now(&self) -> u64;

    /// A stamp of the calling thread.
    fn stamp(&self) -> Stamp;
}

/// The host's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> u64 {
        read(libc::CLOCK_MONOTONIC)
    }

    // By its calls, profiles find where a row of the timeline ends: it has to be there.
    #[inline(never)]
    fn stamp(&self) -> Stamp {
        thread_local!(static THREAD: u8 = const { 0 });
        // The address of a thread's own variable names the thread without a system call.
        let thread = THREAD.with(|own| std::ptr::from_ref(own).addr());
        Stamp { at: self.now(), cpu: read(libc::CLOCK_THREAD_CPUTIME_ID), thread }
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a timespec that outlives the call.
    unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    // SAFETY: all-zero is a valid timespec, and the call writes nothing else than a valid one.
    let time = unsafe { time.assume_init() };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
