//! The console against strings: what is printed comes out, what is typed goes in, whole and in order, however it is cut.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::testing::Used;

const PORTS: usize = 3;
/// Buffers for input that wait at most, of three pieces each.
const BUFFERS: usize = 16;

#[derive(Clone, Debug)]
enum Step {
    /// The guest prints to a port: pieces of so many bytes.
    Print {
        port: usize,
        pieces: Vec<usize>,
        indirect: bool,
        rings: bool,
    },
    /// Somebody types so much.
    Type(usize),
    /// The guest makes buffers of such pieces available.
    Offer {
        pieces: Vec<usize>,
        indirect: bool,
    },
    Resize(u16, u16),
    /// The driver starts anew.
    Reset,
    /// The device is saved, and goes on elsewhere.
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = || prop_oneof![6 => 1_usize..40, 2 => 1_usize..6000, 1 => 60_000_usize..70_000];
    let print = (0..PORTS, prop::collection::vec(len(), 1..4), any::<bool>(), any::<bool>())
        .prop_map(|(port, pieces, indirect, rings)| Step::Print { port, pieces, indirect, rings });
    let offer = (prop::collection::vec(prop_oneof![1_usize..20, 1_usize..3000], 1..4), any::<bool>())
        .prop_map(|(pieces, indirect)| Step::Offer { pieces, indirect });
    let step = prop_oneof![
        5 => print,
        5 => prop_oneof![1_usize..30, 1_usize..5000].prop_map(Step::Type),
        6 => offer,
        1 => any::<(u16, u16)>().prop_map(|(columns, rows)| Step::Resize(columns, rows)),
        1 => Just(Step::Reset),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..60)
}

/// The next `len` bytes of a text in which no place looks like another.
fn text(next: &mut u32, len: usize) -> Vec<u8> {
    let bytes = (*next..).take(len).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    *next += len as u32;
    bytes
}

struct Model {
    /// Typed, and not yet with the guest.
    typed: VecDeque<u8>,
    /// Buffers that wait for input: heads, and how long they are.
    buffers: VecDeque<(u16, usize)>,
    size: (u16, u16),
    next: u32,
}

impl Model {
    /// What the guest finds in its buffers: as much as was typed, in each as much as it holds.
    fn feed(&mut self, driver: &mut FakeDriver) {
        while !self.typed.is_empty() && !self.buffers.is_empty() {
            let (head, room) = self.buffers.pop_front().unwrap();
            let len = room.min(self.typed.len());
            let mut data: Vec<u8> = self.typed.drain(..len).collect();
            data.resize(room, 0xaa);
            let expected = Used { head, written: len as u32, data };
            assert_eq!(driver.take(INPUT), Some(expected));
        }
        assert_eq!(driver.take(INPUT), None, "nothing was typed, or there was no room");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn nothing_is_lost_or_mixed_up(steps in steps()) {
        let (device, mut ends) = console(PORTS);
        let mut driver = FakeDriver::new(device);
        let mut model = Model { typed: VecDeque::new(), buffers: VecDeque::new(), size: (0, 0), next: 0 };
        for step in steps {
            match step {
                Step::Print { port, pieces, indirect, rings } => {
                    let queue = if port == 0 { OUTPUT } else { 2 * port as u16 + 3 };
                    let parts: Vec<Vec<u8>> = pieces.iter().map(|&len| text(&mut model.next, len)).collect();
                    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                    let head = match indirect {
                        true => driver.offer_indirect(queue, &slices, &[]),
                        false => driver.offer(queue, &slices, &[]),
                    };
                    // The console's by the vCPU that rings, or by the worker.
                    if rings && port == 0 { driver.core.notified(queue) } else { driver.kick(queue) }
                    prop_assert_eq!(driver.take(queue), Some(Used { head, written: 0, data: Vec::new() }));
                    let heard: Vec<_> = ends.outputs.iter().map(ConsoleOutput::take).collect();
                    for (other, heard) in heard.into_iter().enumerate() {
                        let said = if other == port { parts.concat() } else { Vec::new() };
                        prop_assert!(heard == said, "port {other}, when {port} was written to");
                    }
                }
                Step::Type(len) => {
                    let room = ends.input.input_room();
                    prop_assert_eq!(room, 4096 - model.typed.len());
                    let bytes = text(&mut model.next, len.min(room));
                    ends.input.input(&bytes);
                    model.typed.extend(bytes);
                    driver.run();
                }
                Step::Offer { pieces, indirect } if model.buffers.len() < BUFFERS => {
                    let head = match indirect {
                        true => driver.offer_indirect(INPUT, &[], &pieces),
                        false => driver.offer(INPUT, &[], &pieces),
                    };
                    model.buffers.push_back((head, pieces.iter().sum()));
                    driver.kick(INPUT);
                }
                Step::Offer { .. } => {}
                Step::Resize(columns, rows) => {
                    let told = driver.config_interrupts();
                    ends.input.resize(columns, rows);
                    driver.run();
                    prop_assert_eq!(driver.config_interrupts(), told + 1);
                    model.size = (columns, rows);
                }
                Step::Reset => {
                    driver.core.set_status(0);
                    driver.run();
                    prop_assert_eq!(ends.input.input_room(), 0, "nobody listens");
                    driver.initialise(u64::MAX);
                    model.buffers.clear();
                }
                Step::Snapshot => {
                    let (fresh, fresh_ends) = console(PORTS);
                    driver = driver.restored(fresh);
                    ends = fresh_ends;
                }
            }
            model.feed(&mut driver);
            let expected = [model.size.0, model.size.1, PORTS as u16, 0].map(u16::to_le_bytes).concat();
            prop_assert_eq!(driver.config(0, 8), expected);
            prop_assert!(!driver.needs_reset());
        }
        prop_assert!(ends.outputs.iter().all(|output| output.lost() == 0));
    }
}
