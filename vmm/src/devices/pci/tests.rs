//! A guest's ways to a function, and what a hostile one may try.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::interrupt::{Message, Messages};

/// A function with some memory for a BAR.
struct Fake {
    config: Mutex<ConfigSpace>,
    bar: Mutex<[u8; 0x1000]>,
}

const START: u64 = 0xc000_0000;
const PORTS: u64 = 0xc100;

impl Fake {
    fn new() -> Self {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1044,
            revision: 1,
            class: 0xff_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1044,
        };
        let bars = Bars {
            memory: Range { start: START, len: 0x1000 },
            ports: Some(Range { start: PORTS, len: 0x100 }),
        };
        Self { config: Mutex::new(ConfigSpace::new(&identity, bars)), bar: Mutex::new([0; 0x1000]) }
    }
}

impl Function for Fake {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.config.lock().unwrap().read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        self.config.lock().unwrap().write(offset, data);
    }

    fn bar(&self, space: Space) -> Option<Range> {
        self.config.lock().unwrap().bar(space)
    }

    fn read_bar(&self, _: Space, offset: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.bar.lock().unwrap()[offset as usize..][..data.len()]);
    }

    fn write_bar(&self, _: Space, offset: u64, data: &[u8]) {
        self.bar.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
    }

    fn save(&self) -> Vec<u8> {
        self.config.lock().unwrap().bytes().to_vec()
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        self.config.lock().unwrap().restore(saved);
        Ok(())
    }
}

fn bus() -> RootBus {
    RootBus::new(vec![(3, Arc::new(Fake::new()))])
}

fn dword(device: &dyn BusDevice, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn both_ways_lead_to_the_same_function() {
    let bus = bus();
    let (ecam, ports) = (Ecam(bus.clone()), ConfigPorts::new(bus));
    assert_eq!(dword(&ecam, 3 << 15), 0x1044_1af4);
    assert_eq!(dword(&ecam, 3 << 15 | 0x100), 0, "no extended capability");
    for (nobody, what) in [(2 << 15, "device"), (3 << 15 | 1 << 12, "function")] {
        assert_eq!(dword(&ecam, nobody), u32::MAX, "{what}");
    }
    assert_eq!(dword(&ports, 4), u32::MAX, "not enabled");
    ports.write(0, &(1_u32 << 31 | 3 << 11 | 0x08).to_le_bytes());
    assert_eq!(dword(&ports, 0), 1 << 31 | 3 << 11 | 0x08);
    assert_eq!(dword(&ports, 4), 0xff00_0001);
    let mut byte = [0];
    ports.read(7, &mut byte);
    assert_eq!(byte, [0xff], "base class");
    ports.write(0, &(1_u32 << 31 | 1 << 16 | 3 << 11).to_le_bytes());
    assert_eq!(dword(&ports, 4), u32::MAX, "another bus");
}

#[test]
fn the_address_that_was_chosen_is_saved() {
    let (ports, other) = (ConfigPorts::new(bus()), ConfigPorts::new(bus()));
    ports.write(0, &(1_u32 << 31 | 3 << 11).to_le_bytes());
    other.restore(&ports.save().unwrap()).unwrap();
    assert_eq!(dword(&other, 4), 0x1044_1af4);
    assert!(other.restore(&[0; 3]).is_err());
}

#[test]
fn a_bar_says_its_size_and_can_be_moved() {
    let bus = bus();
    let (ecam, window) = (Ecam(bus.clone()), Window::new(bus, Space::Memory, START));
    let bar = 3 << 15 | 0x10;
    window.write(0x10, &[7]);
    ecam.write(bar, &[0xff; 4]);
    assert_eq!(dword(&ecam, bar), 0xffff_f000);
    ecam.write(bar, &(START as u32 + 0x5000).to_le_bytes());
    let mut byte = [0xff];
    window.read(0x10, &mut byte);
    assert_eq!(byte, [0xff], "nothing is left there");
    window.read(0x5010, &mut byte);
    assert_eq!(byte, [7]);
    ecam.write(3 << 15 | 4, &[0, 0]);
    byte = [0xff];
    window.read(0x5010, &mut byte);
    assert_eq!(byte, [0xff], "decoding is off");
}

#[test]
fn a_bar_of_ports_as_well() {
    let bus = bus();
    let (ecam, window) = (Ecam(bus.clone()), Window::new(bus, Space::Ports, 0xc000));
    let bar = 3 << 15 | 0x14;
    assert_eq!(dword(&ecam, bar), PORTS as u32 | 1);
    window.write(0x1fe, &[7, 8]);
    ecam.write(bar, &[0xff; 4]);
    assert_eq!(dword(&ecam, bar), 0xff01, "256 ports");
    ecam.write(bar, &[0, 0xd0, 0, 0]);
    let read = |at| {
        let mut bytes = [0xff; 2];
        window.read(at, &mut bytes);
        bytes
    };
    assert_eq!((read(0x1fe), read(0x10fe), read(0x10ff)), ([0xff; 2], [7, 8], [0xff; 2]));
    ecam.write(3 << 15 | 4, &[2, 0]);
    assert_eq!(read(0x10fe), [0xff; 2], "decoding of ports is off");
}

type Sent = Arc<Mutex<Vec<(u16, Message)>>>;

struct Recorder(Sent);

impl Messages for Recorder {
    fn send(&self, vector: u16, message: Message) {
        self.0.lock().unwrap().push((vector, message));
    }
}

fn msix(count: u16) -> (Msix, Sent) {
    let sent = Sent::default();
    (Msix::new(count, Box::new(Recorder(sent.clone()))), sent)
}

#[test]
fn a_masked_vector_waits() {
    let (msix, sent) = msix(2);
    let take = || std::mem::take(&mut *sent.lock().unwrap());
    msix.write_table(16, &[0x00, 0x10, 0xe0, 0xfe, 0, 0, 0, 0]);
    msix.write_table(24, &[0x41, 0, 0, 0]);
    msix.raise(1);
    msix.set_control(1 << 15);
    assert!(take().is_empty(), "interrupts are off: nothing is remembered");
    msix.raise(1);
    let mut pending = [0; 8];
    msix.read_pending(0, &mut pending);
    assert_eq!((take(), pending[0]), (vec![], 0b10), "masked after a reset");
    msix.set_control(1 << 15 | 1 << 14);
    msix.write_table(28, &[0; 4]);
    assert!(take().is_empty(), "all are masked");
    msix.set_control(1 << 15);
    let message = Message { address: 0xfee0_1000, data: 0x41 };
    assert_eq!(take(), [(1, message)]);
    msix.raise(1);
    msix.raise(2);
    assert_eq!(take(), [(1, message)], "there is no third");
}

#[test]
fn a_table_comes_back() {
    let (first, _) = msix(3);
    first.write_table(32, &[1; 12]);
    first.set_control(1 << 15);
    first.raise(2);
    let (second, sent) = msix(3);
    assert!(second.restore(first.save()));
    assert_eq!(second.save(), first.save());
    second.write_table(44, &[0; 4]);
    assert_eq!(sent.lock().unwrap().len(), 1, "what was pending");
    assert!(!msix(2).0.restore(first.save()), "of another device");
}

proptest! {
    #[test]
    fn no_access_panics(accesses in prop::collection::vec((any::<bool>(), 0_u64..0x4000, 0_usize..9, any::<u64>()), 0..50)) {
        let bus = bus();
        let (ecam, window) = (Ecam(bus.clone()), Window::new(bus.clone(), Space::Memory, START));
        let (bells, ports) = (Window::new(bus.clone(), Space::Ports, 0xc000), ConfigPorts::new(bus));
        let (msix, _) = msix(3);
        for (write, offset, len, value) in accesses {
            let mut data = value.to_le_bytes()[..len.min(8)].to_vec();
            let config = 3 << 15 | offset & 0xfff;
            if write {
                ecam.write(config, &data);
                window.write(offset, &data);
                bells.write(offset, &data);
                ports.write(offset % 8, &data);
                msix.write_table(offset, &data);
                msix.set_control(value as u16);
            } else {
                ecam.read(config, &mut data);
                window.read(offset, &mut data);
                bells.read(offset, &mut data);
                ports.read(offset % 8, &mut data);
                msix.read_table(offset, &mut data);
                msix.read_pending(offset, &mut data);
            }
        }
    }
}
