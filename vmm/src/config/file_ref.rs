//! Files by path or by descriptor.
#![allow(unsafe_code, reason = "a descriptor that the parent left open has no owner of a safe type yet")]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Error as _, Serialize, Serializer};

use super::ValueError;
use super::one_line::OneLine;
use super::value;

/// A file that the user names by path, or hands over as an open descriptor (`fd:N`).
///
/// A file whose name does begin with `fd:` is written `./fd:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRef {
    /// A path: neither empty nor with a NUL, and it does not begin with `fd:`.
    Path(PathBuf),
    /// A descriptor that the parent process left open.
    Fd(RawFd),
}

impl FileRef {
    /// Reads what a user wrote: `fd:N`, or a path.
    pub fn new(text: &OsStr) -> Result<Self, ValueError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(ValueError::EmptyPath);
        }
        if bytes.contains(&0) {
            return Err(ValueError::NulInPath);
        }
        let Some(number) = bytes.strip_prefix(b"fd:") else {
            return Ok(Self::Path(PathBuf::from(text)));
        };
        let digits = std::str::from_utf8(number).ok().filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        digits
            .and_then(|n| n.parse().ok())
            .map(Self::Fd)
            .ok_or_else(|| ValueError::Descriptor(text.to_string_lossy().into_owned()))
    }

    /// Opens the file for reading. A descriptor is duplicated, so both share one file offset.
    pub fn open(&self) -> io::Result<File> {
        match self {
            Self::Path(path) => open(path, File::options().read(true)),
            Self::Fd(fd) => duplicate(*fd),
        }
    }

    /// Opens the file for writing: a path is created, or opened as it is if it is there; a descriptor is duplicated
    /// and goes on where it stands.
    pub fn create(&self) -> io::Result<File> {
        match self {
            Self::Path(path) => {
                open(path, File::options().write(true).create(true)).map_err(|e| match e.raw_os_error() {
                    Some(libc::ENXIO) => io::Error::other("nobody reads there: start the reader first"),
                    _ => e,
                })
            }
            Self::Fd(fd) => {
                let file = duplicate(*fd)?;
                if fcntl_getfl(&file)?.intersects(OFlags::WRONLY | OFlags::RDWR) {
                    Ok(file)
                } else {
                    Err(io::Error::other("is open for reading only"))
                }
            }
        }
    }

    /// What is known of the file, without opening it.
    pub fn metadata(&self) -> io::Result<Metadata> {
        match self {
            Self::Path(path) => fs::metadata(path),
            Self::Fd(fd) => duplicate(*fd)?.metadata(),
        }
    }

    /// Opens a disk image. A descriptor is duplicated, and has to be open in the way that is asked for.
    pub fn open_image(&self, writes: bool, direct: bool) -> io::Result<File> {
        let flags = if direct { libc::O_DIRECT } else { 0 };
        match self {
            Self::Path(path) => {
                let mut options = File::options();
                options.read(true).write(writes).custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY);
                options.open(path)
            }
            Self::Fd(fd) => {
                let file = duplicate(*fd)?;
                let found = fcntl_getfl(&file)?;
                let (wants, how) =
                    if writes { (OFlags::RDWR, "read and written") } else { (OFlags::RDONLY, "read") };
                if found & OFlags::ACCMODE != OFlags::RDWR && found & OFlags::ACCMODE != wants {
                    return Err(io::Error::other(format!("is not open to be {how}")));
                }
                if direct && !found.contains(OFlags::DIRECT) {
                    return Err(io::Error::other(
                        "is not open with O_DIRECT: open it so, or leave out direct",
                    ));
                }
                Ok(file)
            }
        }
    }

    /// The path's extension, if it is a path and has one.
    pub(super) fn extension(&self) -> Option<&OsStr> {
        match self {
            Self::Path(path) => path.extension(),
            Self::Fd(_) => None,
        }
    }

    /// As the user would write it.
    pub(super) fn to_os_string(&self) -> OsString {
        match self {
            Self::Path(path) => path.clone().into_os_string(),
            Self::Fd(fd) => format!("fd:{fd}").into(),
        }
    }
}

/// Opens a path. A pipe does not make us wait for its other end until we read or write, nor a terminal become ours.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

fn duplicate(fd: RawFd) -> io::Result<File> {
    // SAFETY: the value is not -1 (`FileRef::new` takes no sign). The borrow lasts for one `fcntl`, which
    // reports a closed descriptor as EBADF instead of touching anything.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(File::from(borrowed.try_clone_to_owned()?))
}

impl FromStr for FileRef {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::new(OsStr::new(text))
    }
}

impl fmt::Display for FileRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", OneLine(&self.to_os_string().to_string_lossy()))
    }
}

impl Serialize for FileRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.to_os_string().to_str() {
            Some(text) => serializer.serialize_str(text),
            None => Err(S::Error::custom(format_args!("the path {self} is not UTF-8"))),
        }
    }
}

impl<'de> Deserialize<'de> for FileRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        value::text(deserializer, "a path or fd:N")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_descriptor_is_shared_and_a_path_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "hello").unwrap();
        let held = File::open(&path).unwrap();
        for file in [FileRef::Path(path), FileRef::Fd(held.as_raw_fd())] {
            let mut text = String::new();
            file.open().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello", "{file}");
        }
        let closed = FileRef::Fd(RawFd::MAX).open().unwrap_err();
        assert_eq!(closed.raw_os_error(), Some(9), "EBADF");
    }

    #[test]
    fn a_pipe_is_waited_for_only_when_it_is_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = FileRef::Path(format!("/proc/self/fd/{}", reader.as_raw_fd()).into());
        let mut opened = path.open().unwrap();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            opened.read_to_string(&mut text).map(|_| text)
        });
        std::thread::yield_now();
        writer.write_all(b"late").unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), "late");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let error = FileRef::Path(path).create().unwrap_err();
        assert_eq!(error.to_string(), "nobody reads there: start the reader first");
    }

    #[test]
    fn only_what_can_be_written_is_a_target() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reading = File::open(file.path()).unwrap();
        let error = FileRef::Fd(reading.as_raw_fd()).create().unwrap_err();
        assert_eq!(error.to_string(), "is open for reading only");
        FileRef::Fd(file.as_file().as_raw_fd()).create().unwrap();
    }

    #[test]
    fn spellings() {
        assert_eq!("fd:0".parse(), Ok(FileRef::Fd(0)));
        assert_eq!("./fd:0".parse(), Ok(FileRef::Path("./fd:0".into())));
        assert_eq!("a b".parse(), Ok(FileRef::Path("a b".into())));
        for bad in ["", "a\0b", "fd:", "fd:-1", "fd:+1", "fd:x", "fd:2147483648", "fd:1 "] {
            assert!(bad.parse::<FileRef>().is_err(), "{bad:?}");
        }
        let odd = FileRef::new(OsStr::from_bytes(b"\xff\n")).unwrap();
        assert_eq!(odd.to_string(), "\u{fffd}\\n");
        assert!(
            serde_json::to_string(&odd).is_err(),
            "a path that is not UTF-8 has no place in a config file"
        );
    }
}
