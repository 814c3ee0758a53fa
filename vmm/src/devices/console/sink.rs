//! Where console output goes: a descriptor that is never allowed to block us.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, open};
use rustix::net::{SendFlags, send};

/// How much is written at once where a write might block although the descriptor is ready.
const CAUTIOUS: usize = 512;

/// A descriptor for output.
#[derive(Debug)]
pub struct Sink {
    file: File,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Writes return at once: a regular file, or a descriptor of our own in non-blocking mode.
    Free,
    /// Non-blocking by a flag of each call.
    Socket,
    /// Shared with other processes in blocking mode: write little, and only when it is ready.
    Shared,
}

impl Sink {
    /// Takes over a descriptor. Non-blocking mode belongs to the open file, which other processes may share: so
    /// pipes and terminals are opened anew.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let (file, kind) = match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Fifo | FileType::CharacterDevice => match reopen(&fd, OFlags::WRONLY) {
                Ok(own) => (own, Kind::Free),
                Err(_) => (fd.into(), Kind::Shared),
            },
            FileType::Socket => (fd.into(), Kind::Socket),
            _ => (fd.into(), Kind::Free),
        };
        Ok(Self { file, kind })
    }

    /// Whether a write has to wait until the descriptor is reported ready.
    #[must_use]
    pub fn must_wait(&self) -> bool {
        self.kind == Kind::Shared
    }

    /// Writes what can be written without waiting; how many bytes it was.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.kind {
            Kind::Free => self.file.write(bytes),
            Kind::Socket => Ok(send(&self.file, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
            Kind::Shared => self.file.write(&bytes[..bytes.len().min(CAUTIOUS)]),
        }
    }
}

impl AsRawFd for Sink {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

/// Opens what `fd` has open once more, non-blocking, as a description that nobody shares.
pub fn reopen(fd: impl AsFd, mode: OFlags) -> io::Result<File> {
    // The device of all pseudoterminal masters: to open one anew is to make another terminal.
    if fstat(&fd)?.st_rdev == makedev(5, 2) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = mode | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// Fills `sink` until it would block; the other end of it is never read.
    fn fill(mut sink: Sink) -> usize {
        let mut total = 0;
        loop {
            match sink.write(&[b'x'; 4096]) {
                Ok(n) => total += n,
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    return total;
                }
            }
        }
    }

    #[test]
    fn never_blocks() {
        let (_reader, writer) = io::pipe().unwrap();
        assert!(fill(Sink::new(writer.into()).unwrap()) >= 4096);
        let (_reader, writer) = UnixStream::pair().unwrap();
        assert!(fill(Sink::new(writer.into()).unwrap()) >= 4096);
    }

    #[test]
    fn a_terminal_s_master_stays_the_same() {
        let master = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        let sink = Sink::new(master.try_clone().unwrap().into()).unwrap();
        assert!(sink.must_wait());
        reopen(&master, OFlags::RDONLY).unwrap_err();
    }

    #[test]
    fn the_shared_description_stays_blocking() {
        let (_reader, writer) = io::pipe().unwrap();
        let sink = Sink::new(writer.try_clone().unwrap().into()).unwrap();
        assert!(!sink.must_wait());
        assert!(!rustix::fs::fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
    }
}
