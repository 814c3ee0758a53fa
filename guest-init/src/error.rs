//! What can go wrong before the workload runs.

use alloc::string::String;
use core::fmt;

use rustix::io::Errno;

/// A step that failed. Displayed, it is one line: what was done, to what, and why it failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// A system call.
    System {
        /// What was to be done.
        action: &'static str,
        /// To what; may be empty.
        subject: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The configuration is wrong.
    Config(String),
    /// A kernel module that is nowhere.
    NoModule {
        /// Its name.
        name: String,
        /// Where it was looked for.
        place: String,
    },
}

impl Error {
    /// For `map_err` on system calls.
    pub fn system(action: &'static str, subject: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System { action, subject: subject.into(), errno }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { action, subject, errno } if subject.is_empty() => {
                write!(f, "{action}: {}", Reason(*errno))
            }
            Self::System { action, subject, errno } => write!(f, "{action} {subject}: {}", Reason(*errno)),
            Self::Config(error) => write!(f, "{}: {error}", abi::init_config::PATH),
            Self::NoModule { name, place } => write!(f, "module {name}: not in {place}"),
        }
    }
}

/// An error number in words, for the numbers that init is likely to meet.
pub struct Reason(pub Errno);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            Errno::PERM => "operation not permitted",
            Errno::NOENT => "no such file or directory",
            Errno::IO => "input/output error",
            Errno::TOOBIG => "argument list too long",
            Errno::NOEXEC => "not a program that this kernel can run",
            Errno::NOMEM => "out of memory",
            Errno::ACCESS => "permission denied",
            Errno::BUSY => "device or resource busy",
            Errno::NODEV => "the kernel lacks it",
            Errno::NOTDIR => "not a directory",
            Errno::ISDIR => "is a directory",
            Errno::INVAL => "invalid argument",
            Errno::FBIG => "file too large",
            Errno::ROFS => "read-only file system",
            Errno::NOSYS => "the kernel lacks this system call",
            Errno::OPNOTSUPP => "not supported",
            Errno::KEYREJECTED => "signature rejected",
            Errno::LOOP => "too many symbolic links",
            Errno::NAMETOOLONG => "name too long",
            _ => return write!(f, "error {}", self.0.raw_os_error()),
        };
        write!(f, "{words} (error {})", self.0.raw_os_error())
    }
}
