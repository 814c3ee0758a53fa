//! The socket device against a driver that does what the bytes say, with host programs at the other end. The first byte
//! chooses the transport; afterwards the device has to answer a driver that starts anew.
#![no_main]

use std::cell::RefCell;
use std::io::{Read, Write};

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::testing::{Script, Target, World};
use vmm::devices::virtio::{FakePeers, Vsock};

/// Bytes that are used: some fifteen steps.
const SCRIPT: usize = 96;
const CID: u32 = 3;
const TRANSMIT: u16 = 1;
const HEADER: usize = 44;
/// `op` of a request for a connection, and of a reset.
const REQUEST: u8 = 1;
const RST: u8 = 3;
/// The first of the ports of connections that the host makes.
const LOCAL_PORT: u32 = 1 << 30;
/// A port that nobody serves.
const NOBODY: u32 = 5000;

struct Host {
    peers: FakePeers,
    dialled: bool,
}

fn packet(op: u8, kind: u8, host: u32, guest: u32, len: u32) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER + len as usize);
    packet.extend(u64::from(CID).to_le_bytes());
    packet.extend(2_u64.to_le_bytes());
    packet.extend(guest.to_le_bytes());
    packet.extend(host.to_le_bytes());
    packet.extend(len.to_le_bytes());
    packet.extend([kind, 0, op, 0]);
    packet.extend([0; 12]);
    packet.resize(HEADER + len as usize, 0x5a);
    packet
}

impl World for Host {
    fn request(&mut self, queue: u16, script: &mut Script<'_>) -> (Vec<u8>, Vec<usize>) {
        if queue != TRANSMIT {
            return (Vec::new(), vec![HEADER, script.number(1) as usize * 16]);
        }
        // A few ports, so that several packets are of one stream.
        let (op, port, len) = (script.number(1) as u8, script.number(1) as u32, script.number(1) as u32 * 16);
        let host = if port & 4 == 0 { port >> 4 } else { LOCAL_PORT + (port >> 4) };
        let mut packet = packet(op & 15, 1 + (op >> 7), host, port & 3, len);
        packet[32] = script.number(1) as u8;
        packet[37] = script.number(1) as u8;
        (packet, Vec::new())
    }

    fn stir(&mut self, script: &mut Script<'_>) {
        let (what, at) = (script.number(1), script.number(1) as usize % 4);
        match what % 5 {
            0 => {
                self.dialled = true;
                self.peers.dial().expect("descriptors");
            }
            // What is not sent or not there is of no interest.
            1 => self
                .peers
                .with(at, |end| drop(end.write(format!("CONNECT {}\n", script.number(1) & 3).as_bytes()))),
            2 => self.peers.with(at, |end| drop(end.write(&vec![0xa5; script.number(2) as usize]))),
            3 => self.peers.with(at, |end| drop(end.read(&mut [0; 4096]))),
            _ => self.peers.close(at),
        }
    }

    fn calm(&mut self) {
        self.peers.clear();
    }
}

thread_local! {
    static TARGETS: RefCell<[(Host, Target); 3]> = RefCell::new([0, 1, 2].map(|kind| {
        let peers = FakePeers::new().expect("a descriptor");
        let target = Target::new(Box::new(Vsock::new(CID, Box::new(peers.clone()))), kind);
        (Host { peers, dialled: false }, target)
    }));
}

fuzz_target!(init: fuzz::ignore_sigpipe(), |data: &[u8]| {
    let Some((kind, script)) = data.split_first() else { return };
    TARGETS.with_borrow_mut(|targets| {
        let (host, target) = &mut targets[usize::from(kind % 3)];
        target.attack(&script[..script.len().min(SCRIPT)], host);
        assert_eq!(target.watched(), 1);
        let driver = target.driver();
        driver.offer(0, &[], &[HEADER]);
        driver.request(TRANSMIT, &[&packet(REQUEST, 1, NOBODY, 7, 0)], &[]);
        let answer = driver.take(0).expect("an answer");
        assert_eq!((answer.written as usize, answer.data[30]), (HEADER, RST));
        assert!(!driver.needs_reset());
        fuzz::bounded_descriptors();
        let dialled = std::mem::take(&mut host.dialled);
        #[cfg(feature = "planted")]
        fuzz::plant(&[target.served, target.rested, dialled]);
        #[cfg(not(feature = "planted"))]
        let _ = dialled;
    });
});
