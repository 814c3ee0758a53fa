//! The core and its queues against drivers that are right, wrong and random.

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use vm_memory::Bytes;

use super::testing::{AVAIL, BUFFERS, FakeDriver, MEMORY, Nothing, RINGS, Target, Used, descriptor};
use super::*;
use crate::state::Saved;

/// Copies what it reads to what it may write; counts what it was asked for.
#[derive(Default)]
struct Echo {
    requests: u32,
    fail: bool,
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct EchoState(u32);

impl Saved for EchoState {
    const NAME: &'static str = "echo";
    const VERSION: u16 = 1;
}

impl VirtioDevice for Echo {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Entropy
    }

    fn features(&self) -> u64 {
        0b1
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.requests.to_le_bytes(), offset, data);
    }

    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        if self.fail {
            return Err(Error::Request("no more"));
        }
        let mut served = 0;
        cx.serve(queue, |chain| {
            served += 1;
            let mut data = Vec::new();
            for buffer in &chain.readable {
                let start = data.len();
                data.resize(start + buffer.len(), 0);
                buffer.copy_to(&mut data[start..]);
            }
            let mut written = 0;
            for buffer in &chain.writable {
                let rest = &data[written..];
                let len = rest.len().min(buffer.len());
                buffer.write_slice(&rest[..len], 0).unwrap();
                written += len;
            }
            Ok(written as u32)
        })?;
        self.requests += served;
        if served > 0 {
            cx.show_config(self);
        }
        if served > 0 && queue == 1 {
            cx.config_changed();
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.requests = 0;
    }

    fn save(&self) -> Vec<u8> {
        state::encode(&EchoState(self.requests))
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error> {
        self.requests = state::decode::<EchoState>(saved)?.0;
        Ok(())
    }
}

fn echo() -> Box<Echo> {
    Box::default()
}

#[test]
fn negotiation() {
    let core = FakeDriver::uninitialised(echo()).core;
    core.set_status(3);
    core.set_driver_features(0, 1 << 5);
    core.set_driver_features(1, 1);
    core.set_status(0xb);
    assert_eq!(core.status(), 3, "a feature that is not offered");
    core.set_driver_features(0, 1);
    core.set_driver_features(1, 0);
    core.set_status(0xb);
    assert_eq!(core.status(), 3, "without VERSION_1");
    core.set_driver_features(1, 1);
    core.set_status(0xb);
    assert_eq!(core.status(), 0xb);
    core.set_driver_features(0, 0);
    assert_eq!(core.driver_features(0), 1, "too late");
    core.set_status(0x40);
    assert_eq!(core.status(), 0xb, "not the driver's bit");
    core.set_status(0);
    assert_eq!((core.status(), core.driver_features(0), core.driver_features(1)), (0, 0, 0));
    core.set_status(7);
    assert_eq!(core.status(), 0x47, "DRIVER_OK without FEATURES_OK");
}

#[test]
fn queues_are_configured_before_they_are_used() {
    let driver = FakeDriver::new(echo());
    let ring = |queue| driver.core.queue(queue, |ring| (ring.size(), ring.desc_table(), ring.ready()));
    use virtio_queue::QueueT;
    assert_eq!(ring(0), (16, RINGS, true));
    driver.core.set_queue_size(0, 8);
    driver.core.set_queue_area(0, transport::Area::Descriptors, false, 0x1000);
    assert_eq!(ring(0), (16, RINGS, true));
    assert_eq!(ring(2), (0, 0, false), "there is no such queue");
    driver.core.set_status(0);
    driver.core.set_queue_size(0, 3);
    assert_eq!(ring(0), (16, 0, false), "no power of two");
}

#[test]
fn a_queue_that_is_given_up_is_left_alone() {
    let mut driver = FakeDriver::new(echo());
    driver.offer(0, &[b"late"], &[4]);
    driver.core.stop_queue(0);
    driver.kick(0);
    assert_eq!(driver.take(0), None);
    assert_eq!(driver.request(1, &[b"other"], &[5]).data, b"other");
    driver.core.start_queue(0);
    driver.kick(0);
    assert_eq!((driver.take(0), driver.needs_reset()), (None, false), "for good");
    driver.core.stop_queue(7);
}

#[test]
fn rings_outside_of_memory_are_refused() {
    let driver = FakeDriver::uninitialised(echo());
    let core = &driver.core;
    core.set_driver_features(1, 1);
    core.set_status(0xb);
    core.set_queue_area(0, transport::Area::Device, false, MEMORY as u32 - 16);
    core.start_queue(0);
    core.set_status(0xf);
    assert!(driver.needs_reset());
    assert_eq!(driver.config_interrupts(), 1);
}

/// What a driver must not do, by descriptors 0 to 2 in raw form.
#[test]
fn broken_chains_put_the_device_to_rest() {
    let next = VRING_DESC_F_NEXT as u16;
    let write = VRING_DESC_F_WRITE as u16;
    let indirect = VRING_DESC_F_INDIRECT as u16;
    let table = BUFFERS + 0x1000;
    for (what, descriptors) in [
        ("a loop", vec![descriptor(BUFFERS, 8, next, 1), descriptor(BUFFERS, 8, next, 0)]),
        ("beyond the table", vec![descriptor(BUFFERS, 8, next, 16)]),
        ("outside of memory", vec![descriptor(MEMORY - 4, 8, 0, 0)]),
        ("address that overflows", vec![descriptor(u64::MAX - 4, 8, 0, 0)]),
        (
            "readable after writable",
            vec![descriptor(BUFFERS, 8, next | write, 1), descriptor(BUFFERS, 8, 0, 0)],
        ),
        ("odd indirect table", vec![descriptor(table, 17, indirect, 0)]),
        ("empty indirect table", vec![descriptor(table, 0, indirect, 0)]),
        ("indirect table outside", vec![descriptor(MEMORY, 16, indirect, 0)]),
        ("indirect in indirect", vec![descriptor(table, 16, indirect, 0)]),
        ("more than 4 GiB", vec![descriptor(BUFFERS, u32::MAX, next, 1), descriptor(BUFFERS, 8, 0, 0)]),
    ] {
        let mut driver = FakeDriver::new(echo());
        let before = driver.config_interrupts();
        driver.memory.write(table, &descriptor(table, 16, indirect, 0)).unwrap();
        for (bytes, i) in descriptors.iter().zip(0..) {
            driver.memory.write(RINGS + 16 * i, bytes).unwrap();
        }
        driver.memory.write(RINGS + AVAIL + 2, &[1, 0, 0, 0]).unwrap();
        driver.kick(0);
        assert!(driver.needs_reset(), "{what}");
        assert_eq!(driver.config_interrupts(), before + 1, "{what}");
        driver.kick(0);
        driver.initialise(u64::MAX);
        assert_eq!(driver.request(0, &[b"hello"], &[8]).data, b"hello\xaa\xaa\xaa", "{what}");
    }
}

/// However many an indirect table has, and whether or not others come before it.
#[test]
fn a_chain_has_so_many_buffers_at_most() {
    let (next, indirect) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_INDIRECT as u16);
    let table = BUFFERS + 0x1000;
    for (before, within, fits) in
        [(0, 1024, true), (0, 1025, false), (3, 1021, true), (3, 1022, false), (3, u16::MAX, false)]
    {
        let mut driver = FakeDriver::new(echo());
        let buffer = |next_one| descriptor(BUFFERS, 1, next, next_one);
        let enter = descriptor(table, 16 * u32::from(within), indirect, 0);
        let mut direct: Vec<_> = (1..=before).map(buffer).collect();
        direct.push(enter);
        let mut others: Vec<_> = (1..within).map(buffer).collect();
        others.push(descriptor(BUFFERS, 1, 0, 0));
        driver.memory.write(RINGS, &direct.concat()).unwrap();
        driver.memory.write(table, &others.concat()).unwrap();
        driver.memory.write(RINGS + AVAIL + 2, &[1, 0, 0, 0]).unwrap();
        driver.kick(0);
        assert_eq!(driver.needs_reset(), !fits, "{before} and {within}");
    }
}

#[test]
fn indices_and_heads_out_of_bounds() {
    for (what, avail) in [("index", [17, 0, 0, 0]), ("head", [1, 0, 16, 0])] {
        let mut driver = FakeDriver::new(echo());
        driver.memory.write(RINGS, &descriptor(BUFFERS, 8, 0, 0)).unwrap();
        driver.memory.write(RINGS + AVAIL + 2, &avail).unwrap();
        driver.kick(0);
        assert!(driver.needs_reset(), "{what}");
    }
}

#[test]
fn a_device_that_gives_up_is_not_asked_again() {
    let mut driver = FakeDriver::new(Box::new(Echo { fail: true, ..Echo::default() }));
    assert!(driver.needs_reset(), "it was asked once at the start");
    let interrupts = driver.config_interrupts();
    driver.offer(0, &[b"x"], &[]);
    driver.kick(0);
    assert_eq!((driver.take(0), driver.config_interrupts()), (None, interrupts));
}

#[test]
fn after_a_reset_nothing_is_touched() {
    let mut driver = FakeDriver::new(echo());
    driver.offer(0, &[b"x"], &[1]);
    driver.core.ring(0);
    driver.core.set_status(0);
    driver.run();
    assert_eq!(driver.take(0), None);
    assert_eq!(driver.config(0, 4), [0; 4]);
}

#[test]
fn what_came_before_the_driver_was_ready_is_served() {
    let mut driver = FakeDriver::uninitialised(echo());
    driver.core.ring(0);
    driver.run();
    driver.initialise(u64::MAX);
    driver.request(0, &[b"x"], &[1]);
    assert_eq!(driver.config(0, 5), [1, 0, 0, 0, 0], "beyond its end there is nothing");
}

#[test]
fn interrupts_come_when_they_are_wanted() {
    let no_event_idx = !(1 << VIRTIO_RING_F_EVENT_IDX);
    let mut driver = FakeDriver::with_features(echo(), no_event_idx);
    driver.request(0, &[b"a"], &[1]);
    assert_eq!(driver.interrupts(0), 1);
    driver.memory.write(RINGS + AVAIL, &[1, 0]).unwrap();
    driver.request(0, &[b"a"], &[1]);
    assert_eq!(driver.interrupts(0), 1, "NO_INTERRUPT");

    let mut driver = FakeDriver::new(echo());
    for _ in 0..3 {
        driver.offer(0, &[b"a"], &[1]);
    }
    driver.kick(0);
    assert_eq!(driver.interrupts(0), 1, "one for a batch");
    driver.offer(0, &[b"a"], &[1]);
    driver.kick(0);
    assert_eq!(driver.interrupts(0), 1, "the first is not taken yet");
    let kicks = driver.config(0, 1)[0];
    driver.core.ring(0);
    driver.run();
    assert_eq!((kicks, driver.interrupts(0)), (4, 1), "nothing was pushed");
}

#[test]
fn changes_of_the_configuration_are_told() {
    let mut driver = FakeDriver::new(echo());
    let (generation, interrupts) = (driver.core.config_generation(), driver.config_interrupts());
    driver.request(1, &[b"x"], &[]);
    assert_eq!(driver.core.config_generation(), generation + 1);
    assert_eq!(driver.config_interrupts(), interrupts + 1);
}

/// One step of a driver that follows the rules.
#[derive(Clone, Debug)]
enum Step {
    Offer { readable: Vec<Vec<u8>>, writable: Vec<usize>, indirect: bool },
    Kick,
    Take,
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let offer = (prop::collection::vec(bytes, 1..4), prop::collection::vec(0_usize..60, 0..4), any::<bool>())
        .prop_map(|(readable, writable, indirect)| Step::Offer { readable, writable, indirect });
    prop::collection::vec(
        prop_oneof![4 => offer, 3 => Just(Step::Kick), 3 => Just(Step::Take), 1 => Just(Step::Snapshot)],
        0..60,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is offered comes back once, in order, with the right bytes, also across snapshots.
    #[test]
    fn behaves_as_the_model(steps in steps(), event_idx: bool) {
        let features = if event_idx { u64::MAX } else { !(1 << VIRTIO_RING_F_EVENT_IDX) };
        let mut driver = FakeDriver::with_features(echo(), features);
        let (mut offered, mut served) = (Vec::new(), std::collections::VecDeque::new());
        let mut in_flight = 0;
        for step in steps {
            match step {
                Step::Offer { readable, writable, indirect } => {
                    let descriptors = if indirect { 1 } else { readable.len() + writable.len() };
                    if in_flight + descriptors > 16 {
                        continue;
                    }
                    in_flight += descriptors;
                    let slices: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
                    let head = if indirect {
                        driver.offer_indirect(0, &slices, &writable)
                    } else {
                        driver.offer(0, &slices, &writable)
                    };
                    let room: usize = writable.iter().sum();
                    let mut data = readable.concat();
                    data.truncate(room);
                    let written = data.len() as u32;
                    data.resize(room, 0xaa);
                    offered.push((Used { head, written, data }, descriptors));
                }
                Step::Kick => {
                    driver.kick(0);
                    served.extend(offered.drain(..));
                }
                Step::Take => {
                    let expected = served.pop_front();
                    in_flight -= expected.as_ref().map_or(0, |(_, descriptors)| *descriptors);
                    prop_assert_eq!(driver.take(0), expected.map(|(used, _)| used));
                }
                Step::Snapshot => {
                    driver = driver.restored(echo());
                    served.extend(offered.drain(..));
                }
            }
            prop_assert!(!driver.needs_reset());
        }
    }

    #[test]
    fn no_driver_breaks_it(kind in 0_u8..3, scripts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4)) {
        let mut target = Target::new(echo(), kind);
        for script in scripts {
            let driver = target.attack(&script, &mut Nothing);
            prop_assert_eq!(driver.request(0, &[b"alive"], &[5]).data, b"alive");
        }
    }
}
