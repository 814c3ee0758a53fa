//! Programs of the host without names in the file system, for tests.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::Peers;

/// Connections that are kept at most; the oldest hang up.
const MOST: usize = 16;
/// At ports from this one on nobody serves.
const SERVED: u32 = 1024;

/// Host programs, at whose ends the test sits. Clones share them.
#[derive(Clone, Debug)]
pub struct FakePeers {
    ends: Arc<Mutex<Ends>>,
    /// Only its number matters.
    listener: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct Ends {
    /// Those that wait to be accepted.
    waiting: VecDeque<OwnedFd>,
    /// The other ends of all.
    far: VecDeque<UnixStream>,
}

impl FakePeers {
    /// Nobody yet.
    pub fn new() -> io::Result<Self> {
        let listener = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        Ok(Self { ends: Arc::default(), listener })
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more program connects, and the device has to find it by [`Peers::accept`].
    pub fn dial(&self) -> io::Result<()> {
        let near = self.pair()?;
        self.ends().waiting.push_back(near);
        Ok(())
    }

    /// Does something with the end of the program that is number `at`, if there is one.
    pub fn with(&self, at: usize, act: impl FnOnce(&mut UnixStream)) {
        if let Some(end) = self.ends().far.get_mut(at) {
            act(end);
        }
    }

    /// The program that is number `at` closes its end.
    pub fn close(&self, at: usize) {
        self.ends().far.remove(at);
    }

    /// All of them are gone.
    pub fn clear(&self) {
        *self.ends() = Ends::default();
    }

    fn pair(&self) -> io::Result<OwnedFd> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let mut ends = self.ends();
        if ends.far.len() == MOST {
            ends.far.pop_front();
        }
        ends.far.push_back(far);
        Ok(near.into())
    }
}

impl AsRawFd for FakePeers {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Peers for FakePeers {
    fn accept(&self) -> io::Result<OwnedFd> {
        self.ends().waiting.pop_front().ok_or(io::ErrorKind::WouldBlock.into())
    }

    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        if port >= SERVED { Err(io::ErrorKind::NotFound.into()) } else { self.pair() }
    }
}
