//! System calls that rustix has no stable door to.
#![allow(unsafe_code, reason = "raw system calls")]

use core::arch::asm;
use core::ffi::{CStr, c_char};
use core::mem::MaybeUninit;
use core::time::Duration;

use linux_raw_sys::general as linux;
use rustix::io::Errno;
use rustix::process::Pid;

/// # Safety
///
/// The arguments must be what the call's manual page asks for; a call that does not return is fine.
unsafe fn syscall(number: u32, args: [usize; 4]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the kernel keeps all registers but rax, rcx and r11 (System V ABI, AMD64 supplement, A.2.1); the
    // memory that it may write is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // Errors are -4095 to -1.
    match result {
        -4095..0 => Err(Errno::from_raw_os_error(-result as i32)),
        _ => Ok(result.cast_unsigned()),
    }
}

/// Which process [`fork`] came back in.
pub enum Fork {
    /// The new one.
    Child,
    /// The old one; the new one's ID.
    Parent(Pid),
}

/// Copies this process, which has one thread.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: no argument. There are neither locks nor other threads whose state the child could find halfway.
    let pid = unsafe { syscall(linux::__NR_fork, [0; 4]) }?;
    Ok(Pid::from_raw(pid as i32).map_or(Fork::Child, Fork::Parent))
}

/// Replaces the program of this process; comes back only with an error.
///
/// `args` and `environment` end with a null pointer; the rest of their pointers came from C strings that live.
pub fn execve(path: &CStr, args: &Pointers<'_>, environment: &Pointers<'_>) -> Errno {
    let args = [path.as_ptr().addr(), args.0.as_ptr().addr(), environment.0.as_ptr().addr(), 0];
    // SAFETY: the types promise C strings, and arrays of them that end with a null pointer.
    unsafe { syscall(linux::__NR_execve, args) }.err().unwrap_or(Errno::NOEXEC)
}

/// An array of C strings as `execve` takes it.
pub struct Pointers<'a>(alloc::vec::Vec<*const c_char>, core::marker::PhantomData<&'a CStr>);

impl<'a> FromIterator<&'a CStr> for Pointers<'a> {
    fn from_iter<I: IntoIterator<Item = &'a CStr>>(strings: I) -> Self {
        let end = core::iter::once(core::ptr::null());
        Self(strings.into_iter().map(CStr::as_ptr).chain(end).collect(), core::marker::PhantomData)
    }
}

/// Ends this process.
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: takes a number.
        let _ = unsafe { syscall(linux::__NR_exit_group, [status.into(), 0, 0, 0]) };
    }
}

/// A set of signals, as the kernel has it: signal N is bit N - 1.
pub struct Signals(u64);

impl Signals {
    /// None.
    pub const NONE: Self = Self(0);
    /// All of them; those that can't be blocked are passed over by the kernel.
    pub const ALL: Self = Self(!0);
}

/// Makes `blocked` the set of signals that wait until somebody asks for them.
pub fn block_signals(blocked: &Signals) -> Result<(), Errno> {
    let set = core::ptr::from_ref(&blocked.0).addr();
    // SAFETY: the third argument may be null; the fourth is the size of the kernel's set.
    unsafe { syscall(linux::__NR_rt_sigprocmask, [linux::SIG_SETMASK as usize, set, 0, size_of::<u64>()]) }?;
    Ok(())
}

/// Waits for one of `signals`, all blocked, and gives its number.
pub fn wait_for_signal(signals: &Signals) -> Result<i32, Errno> {
    let set = core::ptr::from_ref(&signals.0).addr();
    loop {
        // SAFETY: information and timeout may be null; the fourth argument is the size of the kernel's set.
        match unsafe { syscall(linux::__NR_rt_sigtimedwait, [set, 0, 0, size_of::<u64>()]) } {
            Err(Errno::INTR) => {}
            result => return result.map(|signal| signal as i32),
        }
    }
}

/// Sends `signal` to `process`.
pub fn kill(process: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers.
    unsafe { syscall(linux::__NR_kill, [process.as_raw_nonzero().get() as usize, signal as usize, 0, 0]) }?;
    Ok(())
}

/// Lets this process and its children use `count` I/O ports from `first` on.
pub fn ioperm(first: u16, count: u16) -> Result<(), Errno> {
    // SAFETY: takes numbers; what may be done with the ports is up to those who use them.
    unsafe { syscall(linux::__NR_ioperm, [first.into(), count.into(), 1, 0]) }?;
    Ok(())
}

/// Time since the kernel started its clocks.
pub fn since_boot() -> Result<Duration, Errno> {
    let mut time = MaybeUninit::<linux::timespec>::uninit();
    // SAFETY: the kernel writes a timespec there.
    unsafe {
        syscall(linux::__NR_clock_gettime, [linux::CLOCK_BOOTTIME as usize, time.as_mut_ptr().addr(), 0, 0])
    }?;
    // SAFETY: it has been written.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))
}
