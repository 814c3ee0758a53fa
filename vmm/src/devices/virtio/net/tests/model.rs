//! The card against lists of frames: what the driver sends on a pair of queues goes out there, and what comes in it gets, whole
//! and in order, whatever else happens. One at whose end frames wait, as at a tap's, and one that is read until it is empty.

use std::collections::VecDeque;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Instant;

use proptest::sample::select;

use super::*;
use crate::devices::virtio::scatter::{readv, writev};
use crate::memory::Slice;

const PAIRS: usize = 2;
/// Frames on the way on one pair, either way; a socket takes some more.
const FRAMES: usize = 8;
/// Buffers that wait on one pair, of four pieces at most.
const BUFFERS: usize = 24;
const CONTROL: u16 = 2 * PAIRS as u16;
/// Frames in so many milliseconds.
const RATE: (u64, u64) = (3, 2);

/// For each pair of queues a socket that keeps frames apart. Clones share them.
#[derive(Clone)]
struct Wires {
    near: Arc<[OwnedFd; PAIRS]>,
    direct: bool,
}

impl Backend for Wires {
    fn features(&self) -> u64 {
        0
    }

    fn pairs(&self) -> u16 {
        PAIRS as u16
    }

    fn configure(&mut self, _features: u64, _pairs: u16) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self, pair: u16) -> Option<RawFd> {
        Some(self.near[usize::from(pair)].as_raw_fd())
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn send(&mut self, pair: u16, packet: &[Slice<'_>]) -> Outcome<()> {
        match writev(&self.near[usize::from(pair)], packet) {
            Err(e) if e.kind() == ErrorKind::WouldBlock && !self.direct => Outcome::Wait,
            sent => {
                sent.unwrap();
                Outcome::Done(())
            }
        }
    }

    fn receive(&mut self, pair: u16, buffers: &[Slice<'_>], spill: &mut [u8]) -> Outcome<usize> {
        readv(&self.near[usize::from(pair)], buffers, spill).map_or(Outcome::Wait, Outcome::Done)
    }

    fn hang_up(&mut self) {}

    fn reconnect(&mut self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The guest sends frames of such lengths, each in two pieces, and rings once.
    Send {
        pair: usize,
        lens: Vec<usize>,
        cut: usize,
        indirect: bool,
    },
    /// Frames of such lengths come in.
    Come {
        pair: usize,
        lens: Vec<usize>,
    },
    /// The guest makes a buffer available.
    Offer {
        pair: usize,
        pieces: Vec<usize>,
        indirect: bool,
    },
    /// The driver uses so many pairs from now on.
    Pairs(u16),
    /// Whoever is at the other end reads, or does not for a while.
    Reads(bool),
    Reset,
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lens = || {
        prop::collection::vec(prop_oneof![8 => 14_usize..1600, 1 => 14_usize..LONGEST - HEADER], 1..FRAMES)
    };
    let pair = || 0..PAIRS;
    let step = prop_oneof![
        4 => (pair(), lens(), 1_usize..1600, any::<bool>())
            .prop_map(|(pair, lens, cut, indirect)| Step::Send { pair, lens, cut, indirect }),
        4 => (pair(), lens()).prop_map(|(pair, lens)| Step::Come { pair, lens }),
        12 => (pair(), prop::collection::vec(1_usize..3000, 0..4), any::<bool>())
            .prop_map(|(pair, pieces, indirect)| Step::Offer { pair, pieces, indirect }),
        2 => select(&[1, 2, 2][..]).prop_map(Step::Pairs),
        2 => any::<bool>().prop_map(Step::Reads),
        1 => Just(Step::Reset),
        2 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..60)
}

/// A frame with its header. No two of them look alike.
fn frame(number: &mut usize, len: usize) -> Vec<u8> {
    *number += 1;
    let mut bytes: Vec<u8> = (0..HEADER + len).map(|at| (at / 5 + *number * 31) as u8).collect();
    bytes[10..12].fill(0);
    bytes
}

/// What is on the way on one pair of queues.
#[derive(Default)]
struct Pair {
    /// Sent by the guest: heads, and frames that are not out yet.
    heads: VecDeque<u16>,
    out: VecDeque<Vec<u8>>,
    /// On their way to the guest.
    coming: VecDeque<Vec<u8>>,
    /// So many of the first of those the device may have had when it was reset, and they are lost then.
    shaky: usize,
    /// Buffers that wait: heads and room.
    buffers: VecDeque<(u16, usize)>,
}

struct Model {
    driver: FakeDriver,
    wires: Wires,
    far: [UnixDatagram; PAIRS],
    mergeable: bool,
    limited: bool,
    used: usize,
    reads: bool,
    pairs: [Pair; PAIRS],
    /// Frames that have gone either way.
    passed: [u64; 2],
}

impl Model {
    fn new(direct: bool, mergeable: bool, limited: bool) -> Self {
        let ends = [(); PAIRS].map(|()| {
            let (near, far) = UnixDatagram::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            (OwnedFd::from(near), far)
        });
        let [(near, far), (other_near, other_far)] = ends;
        let wires = Wires { near: Arc::new([near, other_near]), direct };
        let driver = FakeDriver::with_features(card(&wires, limited), features(mergeable));
        let (far, pairs) = ([far, other_far], Default::default());
        Self { driver, wires, far, mergeable, limited, used: 1, reads: true, pairs, passed: [0; 2] }
    }

    fn step(&mut self, step: Step, number: &mut usize) {
        match step {
            Step::Send { pair, lens, cut, indirect } if pair < self.used => {
                // One who loses what there is no room for is no use to a model.
                self.reads |= self.wires.direct;
                for len in lens {
                    if self.pairs[pair].heads.len() == FRAMES {
                        break;
                    }
                    let frame = frame(number, len);
                    let (head, tail) = frame.split_at(cut.min(frame.len()));
                    let queue = transmit_queue(pair as u16);
                    let head = match indirect {
                        true => self.driver.offer_indirect(queue, &[head, tail], &[]),
                        false => self.driver.offer(queue, &[head, tail], &[]),
                    };
                    self.pairs[pair].heads.push_back(head);
                    self.pairs[pair].out.push_back(frame);
                }
                self.driver.kick(transmit_queue(pair as u16));
            }
            Step::Send { .. } => {}
            Step::Come { pair, lens } => {
                for len in lens {
                    let frame = frame(number, len);
                    if self.pairs[pair].coming.len() < FRAMES && self.far[pair].send(&frame).is_ok() {
                        self.pairs[pair].coming.push_back(frame);
                    }
                }
                self.driver.run();
            }
            Step::Offer { pair, mut pieces, indirect } => {
                if self.pairs[pair].buffers.len() == BUFFERS {
                    return;
                }
                // Each has room for a header, and where a frame must have one alone, for the longest.
                pieces.push(if self.mergeable { HEADER } else { LONGEST });
                let queue = receive_queue(pair as u16);
                let head = match indirect {
                    true => self.driver.offer_indirect(queue, &[], &pieces),
                    false => self.driver.offer(queue, &[], &pieces),
                };
                self.pairs[pair].buffers.push_back((head, pieces.iter().sum()));
                self.driver.kick(queue);
            }
            Step::Pairs(pairs) => {
                let ack = self.driver.request(CONTROL, &[&[4, 0, pairs as u8, 0]], &[1]);
                assert_eq!(ack.data, [0]);
                self.used = pairs.into();
                self.driver.run();
            }
            Step::Reads(reads) => self.reads = reads,
            Step::Reset => {
                self.driver.initialise(features(self.mergeable));
                self.used = 1;
                for pair in &mut self.pairs {
                    // What is not out yet is forgotten, and so are all buffers.
                    let left = pair.out.len() - pair.heads.len().min(pair.out.len());
                    pair.out.truncate(left);
                    pair.heads.clear();
                    pair.buffers.clear();
                    pair.shaky += usize::from(!pair.coming.is_empty());
                }
            }
            Step::Snapshot => {
                let fresh = card(&self.wires, self.limited);
                let nobody = FakeDriver::uninitialised(card(&self.wires, false));
                self.driver = std::mem::replace(&mut self.driver, nobody).restored(fresh);
                self.pairs.iter_mut().for_each(|pair| pair.shaky += usize::from(!pair.coming.is_empty()));
            }
        }
    }

    /// Takes what the device has done, and compares.
    fn compare(&mut self) {
        for (pair, queue) in (0..PAIRS).zip(0_u16..) {
            while let Some(used) = self.driver.take(transmit_queue(queue)) {
                let head = self.pairs[pair].heads.pop_front();
                assert_eq!((Some(used.head), used.written), (head, 0), "sent on {pair}");
                self.passed[0] += 1;
            }
            let mut bytes = vec![0; LONGEST];
            while self.reads
                && let Ok(len) = self.far[pair].recv(&mut bytes)
            {
                let expected = self.pairs[pair].out.pop_front();
                assert!(expected.is_some_and(|frame| frame == bytes[..len]), "went out on {pair}");
            }
            while let Some(first) = self.driver.take(receive_queue(queue)) {
                self.arrives(pair, first);
                self.passed[1] += 1;
            }
        }
    }

    /// A frame begins in the buffer `first`.
    fn arrives(&mut self, pair: usize, first: Used) {
        let count = u16::from_le_bytes([first.data[10], first.data[11]]);
        assert!(self.mergeable || count == 1);
        let (mut seen, mut next) = (Vec::new(), Some(first));
        for left in (0..count).rev() {
            let used = next.take().or_else(|| self.driver.take(receive_queue(pair as u16)));
            let used = used.expect("as many buffers as the header says");
            let (head, room) = self.pairs[pair].buffers.pop_front().expect("one that was offered");
            assert_eq!(used.head, head, "in their order");
            assert!(left == 0 || used.written as usize == room, "a gap");
            seen.extend(&used.data[..used.written as usize]);
        }
        seen[10..12].fill(0);
        let Pair { coming, shaky, .. } = &mut self.pairs[pair];
        while coming.front() != Some(&seen) && *shaky > 0 {
            coming.pop_front();
            *shaky -= 1;
        }
        *shaky = 0;
        assert!(coming.pop_front() == Some(seen), "came on {pair}");
    }

    /// Whether there is something left that the device could bring on its way.
    fn is_owed(&self) -> bool {
        self.pairs[..self.used].iter().any(|pair| {
            let room: usize = match self.mergeable {
                true => pair.buffers.iter().map(|(_, room)| room).sum(),
                false => pair.buffers.front().map_or(0, |(_, room)| *room),
            };
            let fits = |frame: &Vec<u8>| !pair.buffers.is_empty() && frame.len() <= room;
            self.reads && !pair.out.is_empty() || pair.shaky == 0 && pair.coming.front().is_some_and(fits)
        })
    }
}

fn features(mergeable: bool) -> u64 {
    if mergeable { u64::MAX } else { !(1 << VIRTIO_NET_F_MRG_RXBUF) }
}

fn card(wires: &Wires, limited: bool) -> Box<Net> {
    let bucket = TokenBucket { size: RATE.0, refill_time: RATE.1, one_time_burst: 0 };
    let limit = || RateLimiter::new(&RateLimit { bandwidth: None, ops: limited.then_some(bucket) }).unwrap();
    let options = NetOptions { receive: limit(), transmit: limit(), ..options() };
    Box::new(Net::new(Box::new(wires.clone()), options).unwrap())
}

proptest! {
    // One that waits in vain takes a while each time.
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_time: 10_000, ..ProptestConfig::default() })]
    #[test]
    fn frames_in_are_frames_out(direct: bool, mergeable: bool, limited: bool, steps in steps()) {
        let begin = Instant::now();
        let mut model = Model::new(direct, mergeable, limited);
        let mut number = 0;
        for step in steps {
            model.step(step.clone(), &mut number);
            model.compare();
            // Room that the other end has just made is an event.
            model.driver.run();
            model.compare();
            prop_assert!(limited || !model.is_owed(), "something waits after {step:?}");
            prop_assert!(!model.driver.needs_reset());
        }
        model.reads = true;
        model.compare();
        let mut in_vain = 0;
        while model.is_owed() && in_vain < 10 {
            let before = model.passed;
            model.driver.wait();
            model.compare();
            in_vain = if model.passed == before { in_vain + 1 } else { 0 };
        }
        prop_assert!(!model.is_owed(), "something waits for ever");
        if limited {
            let refills = begin.elapsed().as_millis() as u64 / RATE.1 + 2;
            prop_assert!(model.passed.iter().all(|&passed| passed <= RATE.0 * refills), "{:?}", model.passed);
        }
    }
}
