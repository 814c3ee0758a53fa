//! The kernel's own file systems.

use core::ffi::CStr;

use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::error::Error;

/// A file system that a program expects at its customary place.
pub struct Mount {
    target: &'static CStr,
    kind: &'static CStr,
    flags: MountFlags,
    options: &'static CStr,
    /// Whether a kernel that does not know this file system is unfit.
    needed: bool,
}

const NONE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Device nodes; mounted first, for the console.
pub const DEV: Mount = Mount {
    target: c"/dev",
    kind: c"devtmpfs",
    flags: MountFlags::NOSUID,
    options: c"mode=0755",
    needed: false,
};

/// The others, parents before children.
pub const OTHERS: [Mount; 6] = [
    Mount { target: c"/proc", kind: c"proc", flags: NONE, options: c"", needed: true },
    Mount { target: c"/sys", kind: c"sysfs", flags: NONE, options: c"", needed: false },
    Mount {
        target: c"/dev/pts",
        kind: c"devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"mode=0620,gid=5,ptmxmode=0666", // gid 5 is `tty` in every distribution
        needed: false,
    },
    Mount {
        target: c"/tmp",
        kind: c"tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=1777",
        needed: false,
    },
    Mount {
        target: c"/run",
        kind: c"tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=0755",
        needed: false,
    },
    Mount { target: c"/sys/fs/cgroup", kind: c"cgroup2", flags: NONE, options: c"nsdelegate", needed: false },
];

impl Mount {
    /// Mounts it, on a folder that is made where possible. One that is mounted already stays, and one that the
    /// kernel was built without is passed over unless it is needed.
    pub fn mount(&self) -> Result<(), Error> {
        // Where this fails, so does the mount, and says why.
        let _ = mkdir(self.target, Mode::from_raw_mode(0o755));
        let result = mount(self.kind, self.target, self.kind, self.flags, self.options);
        match result {
            Ok(()) | Err(Errno::BUSY) => Ok(()),
            Err(Errno::NODEV) if !self.needed => Ok(()),
            // Without sysfs or devtmpfs there is no folder to mount the next one on.
            Err(Errno::NOENT) if !self.needed => Ok(()),
            Err(errno) => Err(Error::system("mount", self.target.to_string_lossy())(errno)),
        }
    }
}
