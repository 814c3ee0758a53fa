//! Where somebody listens.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use vsock::{VsockListener, VsockStream};

/// How long it is tried to reach somebody, who may still be starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream with two halves.
pub trait Duplex: Read + Write + Send {
    /// Sends no more.
    fn end(&self) -> Result<()>;
}

impl Duplex for TcpStream {
    fn end(&self) -> Result<()> {
        Ok(self.shutdown(Shutdown::Write)?)
    }
}

impl Duplex for UnixStream {
    fn end(&self) -> Result<()> {
        Ok(self.shutdown(Shutdown::Write)?)
    }
}

impl Duplex for VsockStream {
    fn end(&self) -> Result<()> {
        Ok(self.shutdown(Shutdown::Write)?)
    }
}

/// An address of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp(String),
    /// Host and port.
    Udp(String),
    /// Context identifier and port.
    Vsock(u32, u32),
    /// A Unix socket, and the guest's port behind it.
    Unix(String, Option<u32>),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = text.split_once(':').with_context(|| format!("{text} is no address"))?;
        let port = || rest.rsplit_once(':').and_then(|(before, port)| Some((before, port.parse().ok()?)));
        Ok(match (kind, port()) {
            ("tcp", Some(_)) => Self::Tcp(rest.to_owned()),
            ("udp", Some(_)) => Self::Udp(rest.to_owned()),
            ("vsock", Some((cid, port))) => Self::Vsock(cid.parse()?, port),
            ("unix", Some((path, port))) => Self::Unix(path.to_owned(), Some(port)),
            ("unix", None) => Self::Unix(rest.to_owned(), None),
            _ => bail!("{text} is no address"),
        })
    }
}

/// Waits for the next one who connects.
pub type Accept = Box<dyn FnMut() -> Result<Box<dyn Duplex>> + Send>;

impl Address {
    /// Listens there.
    pub fn listen(&self) -> Result<Accept> {
        Ok(match self {
            Self::Tcp(at) => {
                let listener = TcpListener::bind(at)?;
                Box::new(move || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nodelay(true)?;
                    Ok(Box::new(stream))
                })
            }
            Self::Vsock(cid, port) => {
                let listener = VsockListener::bind_with_cid_port(*cid, *port)?;
                Box::new(move || Ok(Box::new(listener.accept()?.0)))
            }
            Self::Unix(path, None) => {
                let listener = UnixListener::bind(path)?;
                Box::new(move || Ok(Box::new(listener.accept()?.0)))
            }
            Self::Udp(_) | Self::Unix(_, Some(_)) => bail!("nobody can listen there"),
        })
    }

    /// Connects, as soon as somebody listens.
    pub fn connect(&self) -> Result<Box<dyn Duplex>> {
        let begin = Instant::now();
        loop {
            match self.try_connect() {
                Err(_) if begin.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
                other => return other.with_context(|| format!("cannot connect to {self:?}")),
            }
        }
    }

    /// Connects, if somebody listens.
    pub fn try_connect(&self) -> Result<Box<dyn Duplex>> {
        Ok(match self {
            Self::Tcp(at) => {
                let stream = TcpStream::connect(at)?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Vsock(cid, port) => Box::new(VsockStream::connect_with_cid_port(*cid, *port)?),
            Self::Unix(path, None) => Box::new(UnixStream::connect(path)?),
            Self::Unix(path, Some(port)) => {
                let mut stream = UnixStream::connect(path)?;
                writeln!(stream, "CONNECT {port}")?;
                let mut answer = String::new();
                // One byte at a time: what is behind the line is not ours.
                BufReader::with_capacity(1, &stream).read_line(&mut answer)?;
                ensure!(answer.starts_with("OK "), "the answer is {answer:?}");
                Box::new(stream)
            }
            Self::Udp(_) => bail!("there are no connections there"),
        })
    }
}
