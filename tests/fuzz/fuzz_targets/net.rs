//! The network device against a driver that does what the bytes say. What is sent comes back to it, and afterwards a
//! frame has to come back whole. The first byte chooses the transport, the next two the sizes of frame and buffers.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::testing::{Script, Target, World};
use vmm::devices::virtio::{Cable, Loopback, Net, NetOptions};

/// Bytes that are used: some fifteen steps.
const SCRIPT: usize = 96;
/// Bytes of the virtio header in front of a frame, and where it says how many buffers there are.
const HEADER: usize = 12;
const NUM_BUFFERS: usize = 10;
/// Receive, transmit, receive, transmit, control; and the descriptors of two pairs and a timer.
const CONTROL: u16 = 4;
const WATCHED: usize = 3;

struct Wire(Loopback);

impl World for Wire {
    fn request(&mut self, queue: u16, script: &mut Script<'_>) -> (Vec<u8>, Vec<usize>) {
        match queue {
            CONTROL => {
                let mut command = script.number(2).to_le_bytes()[..2].to_vec();
                command.extend(script.number(2).to_le_bytes());
                (command, vec![1])
            }
            queue if queue % 2 == 1 => (vec![0x5a; script.number(1) as usize * 16], Vec::new()),
            _ => (Vec::new(), vec![script.number(1) as usize * 16, script.number(1) as usize]),
        }
    }

    fn stir(&mut self, script: &mut Script<'_>) {
        let mut cable = self.0.cable();
        match script.number(1) % 4 {
            0 => cable.out ^= true,
            1 => cable.full ^= true,
            // Up to the longest frame that there can be.
            _ => {
                let frames = &mut cable.frames[script.number(1) as usize % 2];
                frames.push_back(vec![0xa5; script.number(2) as usize + HEADER]);
            }
        }
    }
}

thread_local! {
    static TARGETS: RefCell<[(Wire, Target); 3]> = RefCell::new([0, 1, 2].map(|kind| {
        let backend = Loopback::new().expect("descriptors");
        let net = Net::new(Box::new(backend.clone()), NetOptions::default()).expect("a timer");
        (Wire(backend), Target::new(Box::new(net), kind))
    }));
}

fuzz_target!(|data: &[u8]| {
    let [kind, frame, buffer, script @ ..] = data else { return };
    TARGETS.with_borrow_mut(|targets| {
        let (wire, target) = &mut targets[usize::from(kind % 3)];
        target.attack(&script[..script.len().min(SCRIPT)], wire);
        let was_out = std::mem::take(&mut *wire.0.cable()).out;
        let driver = target.driver();
        // The link comes up again, if it was down.
        driver.run();
        let frame: Vec<u8> = (0..usize::from(*frame) * 4 + 14).map(|i| (i / 3) as u8 ^ 0x5a).collect();
        let buffer = usize::from(*buffer) * 8 + HEADER + 128;
        for _ in 0..=(HEADER + frame.len()) / buffer {
            driver.offer(0, &[], &[buffer]);
        }
        driver.request(1, &[&[0; HEADER], &frame], &[]);
        let first = driver.take(0).expect("the frame");
        let buffers = u16::from_le_bytes([first.data[NUM_BUFFERS], first.data[NUM_BUFFERS + 1]]);
        let mut seen = first.data[HEADER..first.written as usize].to_vec();
        for _ in 1..buffers {
            let next = driver.take(0).expect("as many buffers as the header says");
            seen.extend(&next.data[..next.written as usize]);
        }
        assert_eq!(seen, frame);
        assert!(!driver.needs_reset());
        assert_eq!(target.watched(), WATCHED);
        *wire.0.cable() = Cable::default();
        fuzz::bounded_descriptors();
        #[cfg(feature = "planted")]
        fuzz::plant(&[target.served, target.rested, was_out]);
        #[cfg(not(feature = "planted"))]
        let _ = was_out;
    });
});
