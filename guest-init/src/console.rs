//! Standard input, output and error.
#![allow(unsafe_code, reason = "the standard streams are known by number")]

use alloc::format;
use core::fmt::{Arguments, Display};

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{Action, tcdrain, tcflow};
use rustix::{fs, io, stdio};

/// Standard input.
pub const STDIN: BorrowedFd<'static> = stream(0);
const STDOUT: BorrowedFd<'static> = stream(1);
const STDERR: BorrowedFd<'static> = stream(2);

const fn stream(number: i32) -> BorrowedFd<'static> {
    // SAFETY: nobody in this program closes a standard stream. If the parent left one closed, the kernel says so.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Opens the console as all three standard streams.
///
/// The kernel has done so for init, but on a file that the new /dev hides, so that nobody could tell the terminal's
/// name; and only if the initramfs has that file. Without `console=` on its command line, it may have no console.
pub fn open() {
    let open = |path| fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
    let console = open(c"/dev/console").or_else(|_| open(c"/dev/ttyS0")).or_else(|_| open(c"/dev/null"));
    if let Ok(console) = console {
        // These fail only if the descriptor were not open.
        let _ = stdio::dup2_stdin(&console);
        let _ = stdio::dup2_stdout(&console);
        let _ = stdio::dup2_stderr(&console);
        if console.as_raw_fd() <= STDERR.as_raw_fd() {
            // No stream was open before: it is one of them itself, and stays.
            core::mem::forget(console);
        }
    }
}

/// Writes to standard output.
pub fn print(text: &dyn Display) {
    write_all(STDOUT, format!("{text}").as_bytes());
}

/// Writes one line of init's own to standard error.
pub fn say(line: Arguments<'_>) {
    write_all(STDERR, format!("jiffy-init: {line}\n").as_bytes());
}

/// Waits until the console has taken all that was written: a power-off would cut it short. A terminal that was
/// stopped (Ctrl-S) goes on first.
pub fn drain() {
    // These fail only if standard output is no terminal.
    let _ = tcflow(STDOUT, Action::OOn);
    let _ = tcdrain(STDOUT);
}

/// There is nobody to tell if the console does not take it.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count.min(bytes.len())..],
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
