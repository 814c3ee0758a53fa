//! Frames over a Unix stream socket, each with its length in front, as passt and QEMU's `-netdev stream` speak.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::backend::{Backend, HEADER, LONGEST, Outcome};
use crate::devices::virtio::chain::total;
use crate::devices::virtio::scatter::{copy_in, copy_out};
use crate::memory::Slice;

/// Bytes of the length in front of a frame, a big-endian number.
const PREFIX: usize = 4;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// One connection to a program that switches or translates frames.
#[derive(Debug)]
pub struct Stream {
    socket: Option<OwnedFd>,
    /// Where it can be reached again; none for a descriptor that was handed over.
    path: Option<PathBuf>,
    input: Box<[u8]>,
    /// What of `input` has been read, and of that what has been taken.
    filled: usize,
    taken: usize,
    /// A frame that was sent in part.
    output: Vec<u8>,
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket)
}

impl Stream {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::new(dial(path)?, Some(path.to_owned())))
    }

    /// Takes over a connected socket.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        rustix::net::getpeername(&socket).map_err(|_| io::Error::other("is no connected socket"))?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self::new(socket, None))
    }

    fn new(socket: OwnedFd, path: Option<PathBuf>) -> Self {
        let input = vec![0; CHUNK].into();
        Self { socket: Some(socket), path, input, filled: 0, taken: 0, output: Vec::new() }
    }

    /// The next frame that has been read as a whole; `Err` for a length that no frame has.
    fn frame(&self) -> Result<Option<std::ops::Range<usize>>, ()> {
        let read = &self.input[self.taken..self.filled];
        let Some((prefix, rest)) = read.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > LONGEST - HEADER {
            return Err(());
        }
        let start = self.taken + PREFIX;
        Ok((rest.len() >= len).then(|| start..start + len))
    }

    /// Reads on.
    fn fill(&mut self) -> Outcome<()> {
        self.input.copy_within(self.taken..self.filled, 0);
        (self.filled, self.taken) = (self.filled - self.taken, 0);
        loop {
            let Some(socket) = &self.socket else { return Outcome::Gone };
            match rustix::io::read(socket, &mut self.input[self.filled..]) {
                Ok(0) => return Outcome::Gone,
                Ok(len) => {
                    self.filled += len;
                    return Outcome::Done(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Outcome::Wait,
                Err(_) => return Outcome::Gone,
            }
        }
    }
}

impl Backend for Stream {
    fn features(&self) -> u64 {
        0
    }

    fn pairs(&self) -> u16 {
        1
    }

    fn configure(&mut self, _features: u64, _pairs: u16) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self, _pair: u16) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn flush(&mut self) -> Outcome<()> {
        while !self.output.is_empty() {
            let Some(socket) = &self.socket else { return Outcome::Gone };
            match rustix::io::write(socket, &self.output) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Outcome::Wait,
                Err(_) => return Outcome::Gone,
            }
        }
        Outcome::Done(())
    }

    fn send(&mut self, _pair: u16, packet: &[Slice<'_>]) -> Outcome<()> {
        match self.flush() {
            Outcome::Done(()) => {}
            other => return other,
        }
        let len = total(packet).saturating_sub(HEADER as u64).min((LONGEST - HEADER) as u64) as usize;
        self.output.extend((len as u32).to_be_bytes());
        self.output.resize(PREFIX + len, 0);
        copy_out(packet, HEADER, &mut self.output[PREFIX..]);
        // The rest, if there is one, goes with the next frame, or when there is room.
        match self.flush() {
            Outcome::Gone => Outcome::Gone,
            _ => Outcome::Done(()),
        }
    }

    fn receive(&mut self, _pair: u16, buffers: &[Slice<'_>], spill: &mut [u8]) -> Outcome<usize> {
        let frame = loop {
            match self.frame() {
                Ok(Some(frame)) => break frame,
                Ok(None) => match self.fill() {
                    Outcome::Done(()) => {}
                    Outcome::Wait => return Outcome::Wait,
                    Outcome::Gone => return Outcome::Gone,
                },
                // Whoever is there speaks something else.
                Err(()) => return Outcome::Gone,
            }
        };
        let len = HEADER + frame.len();
        self.taken = frame.end;
        // Offloads are not negotiated, so the header says nothing.
        let (header, data) = ([0; HEADER], &self.input[frame]);
        let direct = copy_in(buffers, 0, &header) + copy_in(buffers, HEADER, data);
        let rest = header.iter().chain(data).skip(direct);
        spill.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Outcome::Done(len)
    }

    fn hang_up(&mut self) {
        self.socket = None;
        (self.filled, self.taken) = (0, 0);
        self.output.clear();
    }

    fn reconnect(&mut self) -> bool {
        self.socket = self.path.as_deref().and_then(|path| dial(path).ok());
        self.socket.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn frames_come_in_pieces_and_together() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let mut stream = Stream::adopt(near.into()).unwrap();
        let mut spill = [0; 100];
        assert_eq!(stream.receive(0, &[], &mut spill), Outcome::Wait);
        far.write_all(&[0, 0]).unwrap();
        assert_eq!(stream.receive(0, &[], &mut spill), Outcome::Wait);
        far.write_all(&[0, 3, b'a', b'b', b'c', 0, 0, 0, 1, b'd', 0]).unwrap();
        assert_eq!(stream.receive(0, &[], &mut spill), Outcome::Done(15));
        assert_eq!(&spill[..15], [&[0; HEADER], b"abc".as_slice()].concat());
        assert_eq!(stream.receive(0, &[], &mut spill), Outcome::Done(13));
        assert_eq!(spill[12], b'd');
        assert_eq!(stream.receive(0, &[], &mut spill), Outcome::Wait);
        far.write_all(&[0xff; 4]).unwrap();
        assert_eq!(stream.receive(0, &[], &mut spill), Outcome::Gone, "no frame is that long");
        stream.hang_up();
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        assert!(!stream.reconnect(), "a descriptor cannot be made again");
    }
}
