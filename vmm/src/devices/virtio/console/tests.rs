//! Both ways through the console, further ports, and drivers that make no sense.

mod model;

use super::*;
use crate::devices::console::InputPort;
use crate::devices::virtio::testing::{FakeDriver, Nothing, Target};

struct Ends {
    outputs: Vec<ConsoleOutput>,
    input: Arc<ConsoleInput>,
}

fn console(ports: usize) -> (Box<Console>, Ends) {
    let outputs: Vec<_> = (0..ports).map(|_| ConsoleOutput::new().unwrap()).collect();
    let input = Arc::new(ConsoleInput::new().unwrap());
    let name = |i| if i == 0 { String::new() } else { format!("port{i}") };
    let ports = outputs.iter().enumerate().map(|(i, output)| Port { name: name(i), output: output.clone() });
    (Box::new(Console::new(ports.collect(), input.clone())), Ends { outputs, input })
}

#[test]
fn talks_both_ways() {
    let (device, ends) = console(1);
    assert_eq!(ends.input.input_room(), 0, "nobody listens yet");
    let mut driver = FakeDriver::new(device);
    assert_eq!(driver.core.queue_count(), 2);
    driver.request(OUTPUT, &[b"hel", &[b'l'; 5000], b"o"], &[]);
    assert_eq!(ends.outputs[0].take().len(), 5004);
    ends.input.input(b"typed");
    driver.run();
    driver.offer(INPUT, &[], &[3]);
    driver.offer(INPUT, &[], &[100]);
    driver.kick(INPUT);
    assert_eq!(driver.take(INPUT).map(|used| used.data), Some(b"typ".to_vec()));
    let used = driver.take(INPUT).unwrap();
    assert_eq!((used.written, &used.data[..2]), (2, &b"ed"[..]));
    assert!(ends.input.room_event().read().is_ok(), "all is read");
    driver.offer(INPUT, &[], &[10]);
    driver.kick(INPUT);
    ends.input.input(b"x");
    driver.run();
    assert_eq!(driver.take(INPUT).map(|used| used.written), Some(1), "a buffer that waited");
}

#[test]
fn output_is_taken_while_the_driver_waits() {
    let (device, ends) = console(1);
    let mut driver = FakeDriver::new(device);
    driver.offer(OUTPUT, &[b"at once"], &[]);
    driver.core.notified(OUTPUT);
    assert_eq!(ends.outputs[0].take(), b"at once");
    assert!(driver.take(OUTPUT).is_some());
    assert_eq!(driver.core.connected().len(), 1, "the other queue's doorbell");
}

#[test]
fn a_byte_in_an_emergency() {
    let (device, ends) = console(1);
    let driver = FakeDriver::uninitialised(device);
    driver.core.write_config(EMERG_WRITE, &[b'!', 0, 0, 0]);
    assert_eq!(ends.outputs[0].take(), b"!");
}

#[test]
fn the_terminal_may_change_its_size() {
    let (device, ends) = console(1);
    let mut driver = FakeDriver::new(device);
    ends.input.resize(132, 50);
    driver.run();
    assert_eq!(driver.config(0, 8), [132, 0, 50, 0, 1, 0, 0, 0]);
    assert_eq!(driver.config_interrupts(), 1);
}

fn control(id: u32, event: u16, value: u16) -> Vec<u8> {
    Control { id: id.into(), event: event.into(), value: value.into() }.as_bytes().to_vec()
}

#[test]
fn ports_are_introduced_by_name() {
    let (device, ends) = console(3);
    let mut driver = FakeDriver::new(device);
    let told = |driver: &mut FakeDriver| -> Vec<Vec<u8>> {
        for _ in 0..8 {
            driver.offer(TO_DRIVER, &[], &[32]);
        }
        driver.kick(TO_DRIVER);
        let taken = std::iter::from_fn(|| driver.take(TO_DRIVER));
        taken.map(|used| used.data[..used.written as usize].to_vec()).collect()
    };
    driver.request(FROM_DRIVER, &[&control(0, DEVICE_READY, 1)], &[]);
    assert_eq!(told(&mut driver), [0, 1, 2].map(|id| control(id, DEVICE_ADD, 1)));
    let (head, tail) = (&control(0, PORT_READY, 1)[..3], &control(0, PORT_READY, 1)[3..]);
    driver.request(FROM_DRIVER, &[head, tail], &[]);
    driver.request(FROM_DRIVER, &[&control(2, PORT_READY, 1)], &[]);
    let name = [control(2, PORT_NAME, 1), b"port2".to_vec()].concat();
    let answers: Vec<Vec<u8>> = std::iter::from_fn(|| driver.take(TO_DRIVER))
        .map(|used| used.data[..used.written as usize].to_vec())
        .collect();
    let expected = [control(0, CONSOLE_PORT, 1), control(0, PORT_OPEN, 1), control(2, PORT_OPEN, 1), name];
    assert_eq!(answers, expected);
    driver.request(5, &[b"one"], &[]);
    driver.request(7, &[b"two"], &[]);
    assert_eq!(ends.outputs.iter().map(ConsoleOutput::take).collect::<Vec<_>>(), [&b""[..], b"one", b"two"]);
    for nonsense in [control(9, PORT_READY, 1), control(1, 99, 1), vec![1, 2]] {
        driver.request(FROM_DRIVER, &[&nonsense], &[]);
    }
    assert!(!driver.needs_reset() && driver.take(TO_DRIVER).is_none());
}

#[test]
fn goes_on_after_a_restore() {
    let (device, ends) = console(2);
    let mut driver = FakeDriver::new(device);
    ends.input.resize(80, 24);
    ends.input.input(b"typed ahead");
    driver.run();
    driver.request(FROM_DRIVER, &[&control(0, DEVICE_READY, 1)], &[]);
    let (fresh, _ends) = console(2);
    let mut driver = driver.restored(fresh);
    assert_eq!(driver.config(0, 4), [80, 0, 24, 0]);
    driver.offer(INPUT, &[], &[20]);
    driver.kick(INPUT);
    assert_eq!(driver.take(INPUT).map(|used| used.written), Some(11));
    driver.offer(TO_DRIVER, &[], &[8]);
    driver.kick(TO_DRIVER);
    assert_eq!(driver.take(TO_DRIVER).map(|used| used.data), Some(control(0, DEVICE_ADD, 1)));
    let (other, _) = console(1);
    let saved = state::encode(&ConsoleState { owed: vec![0; 2], ..ConsoleState::default() });
    let mut other = other;
    assert!(other.restore(&saved).is_err(), "of a console with another port");
}

#[test]
fn no_driver_breaks_it() {
    use proptest::prelude::*;
    proptest!(ProptestConfig::with_cases(64), |(kind in 0_u8..3, script in prop::collection::vec(any::<u8>(), 0..300))| {
        let (device, ends) = console(3);
        let mut target = Target::new(device, kind);
        let driver = target.attack(&script, &mut Nothing);
        let _ = ends.outputs[0].take();
        driver.request(OUTPUT, &[b"alive"], &[]);
        prop_assert_eq!(ends.outputs[0].take(), b"alive");
    });
}
