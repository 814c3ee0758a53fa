//! What the fuzz targets share.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

/// An anonymous file with these contents.
#[must_use]
pub fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory file"));
    file.write_all(bytes).expect("room in memory");
    Arc::new(file)
}

/// Descriptors that a target has open between two runs, at most.
const DESCRIPTORS: i32 = 128;

/// Fails when descriptors are left open: each takes the lowest number that is free.
pub fn bounded_descriptors() {
    let next = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    assert!(next.as_raw_fd() < DESCRIPTORS, "descriptors are left open");
}

/// Tells libFuzzer what this target compares, of which it makes inputs: for targets where numbers, names or checksums have
/// to be met. Those whose bytes say what to do next, and where each value means something, reach as much without it, and
/// run nearly twice as fast.
#[allow(unexpected_cfgs, reason = "set by the flags that fuzz targets are built with")]
pub fn compare() {
    #[cfg(fuzzing)]
    {
        use std::sync::atomic::{AtomicU64, Ordering};

        #[allow(unsafe_code, reason = "the variable is the compiler's")]
        // SAFETY: the compiler defines it with this type, and it is only ever read elsewhere.
        unsafe extern "C" {
            #[link_name = "__sancov_should_track"]
            safe static TRACKED: AtomicU64;
        }
        TRACKED.store(1, Ordering::Relaxed);
    }
}

/// Writing to a socket whose other end is gone is an error and no signal, as in `jiffy`. The runtime that sees to it in
/// other programs does not start those of libFuzzer.
pub fn ignore_sigpipe() {
    #[allow(unsafe_code, reason = "no crate in use sets the disposition of a signal")]
    // SAFETY: ignoring runs no code of this process.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN)
    };
}

/// A bug on purpose, which shows that a target reaches what is to be reached. It is there only with the
/// feature `planted`. No seed meets all of the conditions; each one met in turn counts as new coverage (libFuzzer
/// tells how often the loop ran), which a search without coverage would not see.
#[inline(never)]
pub fn plant(conditions: &[bool]) {
    for met in conditions {
        if !met {
            return;
        }
    }
    panic!("planted bug");
}
