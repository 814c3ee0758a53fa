//! The device, driven by a guest's side that keeps to the protocol, against real sockets.

mod credit;
mod ends;
mod habit;
mod pipes;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use tempfile::TempDir;
use zerocopy::FromBytes;

use super::muxer::BUF_ALLOC;
use super::packet::{HOST_CID, SHUT_RECEIVE, SHUT_SEND, STREAM, op};
use super::*;
use crate::devices::virtio::testing::FakeDriver;

const CID: u32 = 42;
/// Data of one buffer of the guest's.
const ROOM: usize = 4096;
/// Room that the guest's side grants each stream.
const GUEST_ALLOC: u32 = 64 << 10;

struct Guest {
    driver: FakeDriver,
    dir: TempDir,
    posted: usize,
}

impl Guest {
    fn new() -> Self {
        Self::with(QUEUE_SIZE)
    }

    /// One whose driver has queues of so many descriptors at most.
    fn with(most: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = Vsock::new(CID, Box::new(Endpoint::bind(&dir.path().join("s")).unwrap()));
        let mut driver = FakeDriver::uninitialised(Box::new(device));
        driver.initialise_small(u64::MAX, most);
        let mut guest = Self { driver, dir, posted: 0 };
        // Two descriptors each.
        guest.post(usize::from(most / 2).min(64));
        guest
    }

    fn post(&mut self, count: usize) {
        while self.posted < count {
            self.driver.offer(RECEIVE, &[], &[Header::LEN, ROOM]);
            self.posted += 1;
        }
        self.driver.kick(RECEIVE);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A host program that has asked for a port of the guest.
    fn dial(&mut self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("s")).unwrap();
        stream.set_nonblocking(true).unwrap();
        writeln!(stream, "CONNECT {port}").unwrap();
        self.driver.run();
        stream
    }

    fn header(key: Key, op: u16) -> Header {
        Header {
            src_cid: u64::from(CID).into(),
            dst_cid: HOST_CID.into(),
            src_port: key.guest.into(),
            dst_port: key.host.into(),
            kind: STREAM.into(),
            op: op.into(),
            buf_alloc: GUEST_ALLOC.into(),
            ..Header::default()
        }
    }

    fn send_packet(&mut self, header: &Header, data: &[u8]) {
        let header = Header { len: (data.len() as u32).into(), ..*header };
        self.driver.offer(TRANSMIT, &[header.as_bytes(), data], &[]);
        self.driver.kick(TRANSMIT);
        self.driver.take(TRANSMIT).expect("taken");
    }

    fn send(&mut self, key: Key, op: u16, data: &[u8]) {
        self.send_packet(&Self::header(key, op), data);
    }

    /// The next packet, for which a new buffer is made available.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.driver.run();
        let used = self.driver.take(RECEIVE)?;
        self.posted -= 1;
        self.post(self.posted + 1);
        let (header, _) = Header::read_from_prefix(&used.data).unwrap();
        let len = header.len.get() as usize;
        assert_eq!(used.written as usize, Header::LEN + len);
        Some((header, used.data[Header::LEN..][..len].to_vec()))
    }

    fn expect(&mut self, op: u16) -> Header {
        let (header, _) = self.receive().expect("a packet");
        assert_eq!(header.op.get(), op, "{header:?}");
        header
    }

    /// A stream that the host program has opened.
    fn opened(&mut self, port: u32) -> (Key, UnixStream) {
        let mut stream = self.dial(port);
        let header = self.expect(op::REQUEST);
        assert_eq!((header.dst_port.get(), header.dst_cid.get()), (port, u64::from(CID)));
        let key = Key { host: header.src_port.get(), guest: port };
        self.send(key, op::RESPONSE, b"");
        assert_eq!(said(&mut stream), format!("OK {}\n", key.host).as_bytes());
        (key, stream)
    }
}

/// What is there to read.
fn said(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Err(e) if e.kind() != ErrorKind::WouldBlock => panic!("{e}"),
        _ => all,
    }
}

#[test]
fn a_host_program_talks_to_the_guest() {
    let mut guest = Guest::new();
    assert_eq!(guest.driver.config(0, 8), u64::from(CID).to_le_bytes());
    let (key, mut stream) = guest.opened(52);
    stream.write_all(b"ping").unwrap();
    let (header, data) = guest.receive().unwrap();
    assert_eq!((header.op.get(), data.as_slice()), (op::RW, b"ping".as_slice()));
    guest.send(key, op::RW, b"pong");
    assert_eq!(said(&mut stream), b"pong");
    assert!(guest.driver.interrupts(RECEIVE) > 0);
}

#[test]
fn what_is_sent_with_the_request_is_not_lost() {
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(guest.path("s")).unwrap();
    stream.write_all(b"CONNECT 9\nearly").unwrap();
    let key = Key { host: guest.expect(op::REQUEST).src_port.get(), guest: 9 };
    guest.send(key, op::RESPONSE, b"");
    assert_eq!(guest.receive().unwrap().1, b"early");
}

#[test]
fn the_guest_talks_to_a_host_program() {
    let mut guest = Guest::new();
    let key = Key { host: 80, guest: 1024 };
    guest.send(key, op::REQUEST, b"");
    guest.expect(op::RST);
    let listener = UnixListener::bind(guest.path("s_80")).unwrap();
    guest.send(key, op::REQUEST, b"");
    guest.expect(op::RESPONSE);
    let (mut stream, _) = listener.accept().unwrap();
    guest.send(key, op::RW, b"GET /");
    stream.set_nonblocking(true).unwrap();
    assert_eq!(said(&mut stream), b"GET /");
    stream.write_all(b"200").unwrap();
    assert_eq!(guest.receive().unwrap().1, b"200");
}

#[test]
fn the_driver_hears_what_was_taken() {
    let mut guest = Guest::new();
    let update = Guest::header(Key { host: 80, guest: 1024 }, op::CREDIT_UPDATE);
    let large = vec![0; 16 << 10];
    for (count, data, at_once) in
        [(3, &[][..], false), (QUEUE_SIZE / 4, &[], true), (1, &large, true), (1, &[], false)]
    {
        let header = Header { len: (data.len() as u32).into(), ..update };
        let before = guest.driver.interrupts(TRANSMIT);
        for _ in 0..count {
            guest.driver.offer(TRANSMIT, &[header.as_bytes(), data], &[]);
        }
        guest.driver.kick(TRANSMIT);
        let told = |guest: &Guest| guest.driver.interrupts(TRANSMIT) > before;
        assert!(told(&guest) || !at_once, "{count} packets with {} bytes", data.len());
        let late = told(&guest)
            || (0..60).any(|_| {
                guest.driver.wait();
                told(&guest)
            });
        assert!(late, "{count} packets when the time has come");
        for _ in 0..count {
            guest.driver.take(TRANSMIT).expect("taken");
        }
    }
}

#[test]
fn before_a_pause_the_driver_hears_of_all() {
    let mut guest = Guest::new();
    let before = guest.driver.interrupts(TRANSMIT);
    let update = Guest::header(Key { host: 80, guest: 1024 }, op::CREDIT_UPDATE);
    guest.driver.offer(TRANSMIT, &[update.as_bytes()], &[]);
    guest.driver.kick(TRANSMIT);
    guest.driver.core.drain();
    assert!(guest.driver.interrupts(TRANSMIT) > before);
}

#[test]
fn a_refusal_closes_the_socket() {
    let mut guest = Guest::new();
    let mut stream = guest.dial(1);
    let key = Key { host: guest.expect(op::REQUEST).src_port.get(), guest: 1 };
    guest.send(key, op::RST, b"");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    for nonsense in ["HELLO\n", "CONNECT x\n", &"x".repeat(40)] {
        let mut stream = UnixStream::connect(guest.path("s")).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        guest.driver.run();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "{nonsense}");
    }
    assert!(guest.receive().is_none());
}

#[test]
fn who_does_not_wait_is_forgotten() {
    let mut guest = Guest::new();
    let stream = guest.dial(1);
    let key = Key { host: guest.expect(op::REQUEST).src_port.get(), guest: 1 };
    drop(stream);
    guest.expect(op::RST);
    guest.send(key, op::RESPONSE, b"");
    guest.expect(op::RST);
}

#[test]
fn hundreds_of_streams() {
    const STREAMS: u32 = 500;
    let mut guest = Guest::new();
    let mut streams: Vec<_> = (0..STREAMS).map(|port| guest.opened(port)).collect();
    for (key, stream) in &mut streams {
        stream.write_all(format!("to {}", key.guest).as_bytes()).unwrap();
    }
    for _ in 0..STREAMS {
        let (header, data) = guest.receive().unwrap();
        assert_eq!(data, format!("to {}", header.dst_port).as_bytes());
        let key = Key { host: header.src_port.get(), guest: header.dst_port.get() };
        guest.send(key, op::RW, &data);
    }
    for (key, stream) in &mut streams {
        assert_eq!(said(stream), format!("to {}", key.guest).as_bytes());
    }
}

#[test]
fn a_reset_of_the_guest_ends_all() {
    let mut guest = Guest::new();
    let (_, mut stream) = guest.opened(5);
    let mut waits = guest.dial(6);
    guest.driver.initialise(u64::MAX);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(waits.read(&mut [0]).unwrap(), 0);
    guest.posted = 0;
    guest.post(64);
    assert!(guest.receive().is_none());
    guest.opened(5);
}

#[test]
fn a_restored_guest_learns_that_its_streams_are_gone() {
    let mut guest = Guest::new();
    let (key, _stream) = guest.opened(5);
    guest.driver.offer(EVENT, &[], &[4]);
    guest.driver.kick(EVENT);
    let device = Vsock::new(7, Box::new(Endpoint::bind(&guest.path("other")).unwrap()));
    guest.driver = guest.driver.restored(Box::new(device));
    let event = guest.driver.take(EVENT).expect("an event");
    assert_eq!((event.written, event.data), (4, EVENT_TRANSPORT_RESET.to_le_bytes().to_vec()));
    assert_eq!(guest.driver.config(0, 8), u64::from(CID).to_le_bytes(), "it keeps its identifier");
    guest.send(key, op::RW, b"x");
    guest.expect(op::RST);
}

#[test]
fn a_broken_driver_is_told() {
    let liar = Header { len: u32::MAX.into(), ..Guest::header(Key { host: 1, guest: 1 }, op::RW) };
    let short: [(u16, &[u8], &[usize]); 4] = [
        (TRANSMIT, &[0; Header::LEN - 1], &[]),
        (TRANSMIT, liar.as_bytes(), &[]),
        (EVENT, &[], &[3]),
        (RECEIVE, &[], &[Header::LEN - 1]),
    ];
    for (queue, readable, writable) in short {
        let dir = tempfile::tempdir().unwrap();
        let mut device = Vsock::new(CID, Box::new(Endpoint::bind(&dir.path().join("s")).unwrap()));
        device.lost = true;
        device.muxer.open(1);
        let mut driver = FakeDriver::new(Box::new(device));
        assert!(!driver.needs_reset());
        driver.offer(queue, &[readable], writable);
        driver.kick(queue);
        assert!(driver.needs_reset(), "{queue}");
    }
}

#[test]
fn buffers_in_more_pieces_than_are_read_into_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let device = Vsock::new(CID, Box::new(Endpoint::bind(&dir.path().join("s")).unwrap()));
    let mut guest = Guest { driver: FakeDriver::new(Box::new(device)), dir, posted: 100 };
    let mut lens = vec![Header::LEN];
    lens.extend([16; 256]);
    for _ in 0..100 {
        guest.driver.offer_indirect(RECEIVE, &[], &lens);
    }
    guest.driver.kick(RECEIVE);
    let (_, mut stream) = guest.opened(52);
    let sent = 60 << 10;
    stream.write_all(&vec![7; sent]).unwrap();
    let came: usize = std::iter::from_fn(|| guest.receive()).map(|(_, data)| data.len()).sum();
    assert_eq!(came, sent);
}
