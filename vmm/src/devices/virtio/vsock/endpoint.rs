//! The Unix socket by which host programs reach the guest, and those by which the guest reaches them, as Firecracker
//! has them: who connects to `PATH` writes `CONNECT PORT` and a newline; the guest's connections to a port of the host go
//! to `PATH_PORT`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, recv, socket_with,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// `CONNECT 4294967295` and the newline.
const LONGEST_REQUEST: usize = 19;
/// What fits into `sun_path` with an underscore and the longest port behind it.
const LONGEST_PATH: usize = 108 - "_4294967295".len();

/// Programs of the host. As a descriptor, what is readable when one has connected.
pub trait Peers: AsRawFd + Send {
    /// The next one that has connected, as a stream socket that does not block.
    fn accept(&self) -> io::Result<OwnedFd>;

    /// Connects to the one that serves this port of the host.
    fn connect(&self, port: u32) -> io::Result<OwnedFd>;
}

/// The listening socket of a VM.
#[derive(Debug)]
pub struct Endpoint {
    listener: OwnedFd,
    path: Option<PathBuf>,
    /// We have made it, and take it away again.
    ours: bool,
}

/// What a host program has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To be connected to this port of the guest.
    Connect(u32),
    /// It has not said all of it yet.
    Unfinished,
    /// Nothing that can be understood, or it has gone.
    Invalid,
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

impl Endpoint {
    /// Listens at `path`. A socket that an earlier VM has left there, and at which nobody listens, is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let len = path.as_os_str().len();
        if len > LONGEST_PATH {
            return Err(io::Error::other(format!(
                "the path has {len} bytes, which leaves no room for ports at its end: shorten it to {LONGEST_PATH}"
            )));
        }
        let address = SocketAddrUnix::new(path)?;
        let listener = stream_socket()?;
        match bind(&listener, &address) {
            Err(Errno::ADDRINUSE) if is_abandoned(path, &address) => {
                std::fs::remove_file(path)?;
                bind(&listener, &address)?;
            }
            Err(Errno::ADDRINUSE) if !is_socket(path) => {
                return Err(io::Error::other("is there and is no socket: give another path"));
            }
            Err(Errno::ADDRINUSE) => {
                return Err(io::Error::other("is in use: end who listens there, or give another path"));
            }
            other => other?,
        }
        listen(&listener, BACKLOG)?;
        Ok(Self { listener, path: Some(path.to_owned()), ours: true })
    }

    /// Takes over a Unix stream socket that listens already.
    pub fn adopt(listener: OwnedFd) -> io::Result<Self> {
        let fits = socket_domain(&listener) == Ok(AddressFamily::UNIX)
            && socket_type(&listener) == Ok(SocketType::STREAM)
            && socket_acceptconn(&listener) == Ok(true);
        if !fits {
            return Err(io::Error::other("is no Unix stream socket that listens"));
        }
        rustix::io::ioctl_fionbio(&listener, true)?;
        let address = SocketAddrUnix::try_from(getsockname(&listener)?)?;
        let path = address.path().map(|path| OsStr::from_bytes(path.to_bytes()).into());
        Ok(Self { listener, path, ours: false })
    }
}

impl Peers for Endpoint {
    fn accept(&self) -> io::Result<OwnedFd> {
        Ok(accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
    }

    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        let Some(path) = &self.path else { return Err(io::ErrorKind::NotFound.into()) };
        let mut path = OsString::from(path);
        path.push(format!("_{port}"));
        let socket = stream_socket()?;
        connect(&socket, &SocketAddrUnix::new(path.as_os_str())?)?;
        Ok(socket)
    }
}

impl AsRawFd for Endpoint {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let (true, Some(path)) = (self.ours, &self.path) {
            // Somebody may have taken it away already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether there is a socket at which nobody listens.
fn is_abandoned(path: &Path, address: &SocketAddrUnix) -> bool {
    let refused = || stream_socket().is_ok_and(|socket| connect(&socket, address) == Err(Errno::CONNREFUSED));
    is_socket(path) && refused()
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}

/// Reads what a host program asks for, and nothing of what it sends behind that.
pub(super) fn read_request(socket: &OwnedFd) -> Request {
    let mut line = [0; LONGEST_REQUEST];
    let len = match recv(socket, &mut line[..], RecvFlags::PEEK) {
        Ok((_, len @ 1..)) => len,
        Err(Errno::AGAIN | Errno::INTR) => return Request::Unfinished,
        Ok(_) | Err(_) => return Request::Invalid,
    };
    let Some(end) = line[..len].iter().position(|&byte| byte == b'\n') else {
        return if len < LONGEST_REQUEST { Request::Unfinished } else { Request::Invalid };
    };
    // It is there, so it comes whole.
    if !matches!(recv(socket, &mut line[..=end], RecvFlags::empty()), Ok((_, len)) if len == end + 1) {
        return Request::Invalid;
    }
    let text = std::str::from_utf8(&line[..end]).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let verb = words.next().is_some_and(|verb| verb.eq_ignore_ascii_case("connect"));
    match (verb, words.next().map(str::parse), words.next()) {
        (true, Some(Ok(port)), None) => Request::Connect(port),
        _ => Request::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn requests() {
        for (text, expected) in [
            ("CONNECT 52\n", Request::Connect(52)),
            ("connect 4294967295\n", Request::Connect(u32::MAX)),
            ("CONNECT 5", Request::Unfinished),
            ("", Request::Unfinished),
            ("CONNECT 4294967296\n", Request::Invalid),
            ("CONNECT -1\n", Request::Invalid),
            ("CONNECT 1 2\n", Request::Invalid),
            ("HELO\n", Request::Invalid),
            ("\n", Request::Invalid),
            ("CONNECT 000000000000000000001\n", Request::Invalid),
        ] {
            let (mut near, far) = UnixStream::pair().unwrap();
            far.set_nonblocking(true).unwrap();
            near.write_all(text.as_bytes()).unwrap();
            assert_eq!(read_request(&far.into()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_follows_a_request_is_left() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"CONNECT 1\ndata").unwrap();
        let far = OwnedFd::from(far);
        assert_eq!(read_request(&far), Request::Connect(1));
        let mut data = [0; 9];
        let (_, len) = recv(&far, &mut data[..], RecvFlags::empty()).unwrap();
        assert_eq!(&data[..len], b"data");
        drop(near);
        assert_eq!(read_request(&far), Request::Invalid);
    }

    #[test]
    fn places_to_listen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let said = |path: &Path| Endpoint::bind(path).unwrap_err().to_string();
        let endpoint = Endpoint::bind(&path).unwrap();
        assert!(said(&path).starts_with("is in use"), "{}", said(&path));
        assert_eq!(endpoint.connect(7).unwrap_err().kind(), io::ErrorKind::NotFound);
        let served = UnixListener::bind(dir.path().join("s_7")).unwrap();
        endpoint.connect(7).unwrap();
        drop(endpoint);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        drop(Endpoint::bind(&path).unwrap());
        std::fs::write(&path, "not a socket").unwrap();
        assert!(said(&path).contains("is no socket"));
        assert!(said(Path::new("/nowhere/s")).starts_with("No such file"));
        let long = "x".repeat(98);
        assert!(said(Path::new(&long)).contains("has 98 bytes"), "{}", said(Path::new(&long)));
        assert!(said(Path::new(&long)).ends_with("to 97"), "{}", said(Path::new(&long)));
        drop(served);
    }

    #[test]
    fn descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let endpoint = Endpoint::adopt(listener.into()).unwrap();
        let _served = UnixListener::bind(dir.path().join("s_9")).unwrap();
        endpoint.connect(9).unwrap();
        drop(endpoint);
        assert!(dir.path().join("s").exists(), "not ours");
        let (other, _) = UnixStream::pair().unwrap();
        assert!(Endpoint::adopt(other.into()).unwrap_err().to_string().contains("no Unix stream socket"));
        let file = tempfile::tempfile().unwrap();
        assert!(Endpoint::adopt(file.into()).unwrap_err().to_string().contains("no Unix stream socket"));
    }
}
