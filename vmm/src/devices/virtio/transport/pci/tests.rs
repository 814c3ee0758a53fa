//! Registers of virtio-pci, as a driver finds them.

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::config::{HugePages, MemorySpec};
use crate::devices::virtio::Entropy;
use crate::interrupt::{Address, Message};
use crate::memory::layout::RamLayout;

type Log<T> = Arc<Mutex<Vec<T>>>;

#[derive(Clone, Default)]
struct Outside {
    sent: Log<u16>,
    doorbells: Log<(bool, Address)>,
}

impl Messages for Outside {
    fn send(&self, vector: u16, _message: Message) {
        self.sent.lock().unwrap().push(vector);
    }
}

impl Doorbells for Outside {
    fn connect(&self, addr: Address, value: Option<u32>, _event: &EventFd) {
        assert_eq!(value, None);
        self.doorbells.lock().unwrap().push((true, addr));
    }

    fn disconnect(&self, addr: Address, _value: Option<u32>, _event: &EventFd) {
        self.doorbells.lock().unwrap().push((false, addr));
    }
}

const START: u64 = 0xc000_0000;

fn device() -> (VirtioPci, Outside) {
    device_with(Some(Range { start: 0xc000, len: PORTS }))
}

fn device_with(ports: Option<Range>) -> (VirtioPci, Outside) {
    let spec = MemorySpec { size: 2 << 20, huge: HugePages::Default, prealloc: false, shared: false };
    let memory = Memory::new(&spec, &RamLayout::new(spec.size)).unwrap();
    let outside = Outside::default();
    let bars = Bars { memory: Range { start: START, len: BAR }, ports };
    let messages = Box::new(outside.clone());
    let device = VirtioPci::new(Box::new(Entropy), memory, bars, messages, Arc::new(outside.clone()));
    (device.unwrap(), outside)
}

fn config<const N: usize>(device: &VirtioPci, offset: u16) -> [u8; N] {
    let mut data = [0; N];
    device.read_config(offset, &mut data);
    data
}

fn bar<const N: usize>(device: &VirtioPci, offset: u64) -> [u8; N] {
    let mut data = [0xff; N];
    device.read_bar(Space::Memory, offset, &mut data);
    data
}

/// Offsets of the capabilities, with their IDs.
fn capabilities(device: &VirtioPci) -> Vec<(u16, u8)> {
    let mut found = Vec::new();
    let [mut at] = config::<1>(device, 0x34);
    while at != 0 {
        let [id, next] = config(device, at.into());
        found.push((at.into(), id));
        at = next;
    }
    found
}

#[test]
fn capabilities_lead_to_every_part() {
    let (device, _) = device();
    assert_eq!(config(&device, 0), [0xf4, 0x1a, 0x44, 0x10]);
    assert_eq!(config::<2>(&device, 6), [0x10, 0]);
    let all = capabilities(&device);
    assert_eq!(all[0].1, MSIX);
    let parts: Vec<_> = (all[1..].iter())
        .map(|&(at, id)| {
            assert_eq!(id, VENDOR_SPECIFIC);
            let [cfg_type, bar] = config(&device, at + 3);
            (
                (cfg_type, bar),
                u32::from_le_bytes(config(&device, at + 8)),
                u32::from_le_bytes(config(&device, at + 12)),
            )
        })
        .collect();
    let expected = [
        ((TYPE_COMMON, 0), COMMON.0, COMMON.1),
        ((TYPE_NOTIFY, 1), 0, 0x100),
        ((TYPE_ISR, 0), ISR.0, ISR.1),
        ((TYPE_DEVICE, 0), DEVICE.0, DEVICE.1),
        ((TYPE_PCI, 0), 0, 0),
        ((TYPE_NOTIFY, 0), NOTIFY.0, NOTIFY.1),
    ];
    assert_eq!(parts, expected);
}

#[test]
fn configuration_space_is_a_way_into_the_bar() {
    let (device, _) = device();
    let at = device.window_at as u16;
    device.write_config(at + 8, &0x12_u32.to_le_bytes());
    device.write_config(at + 12, &2_u32.to_le_bytes());
    assert_eq!(config(&device, at + 16), [1, 0], "one queue");
    device.write_config(at + 8, &0x14_u32.to_le_bytes());
    device.write_config(at + 12, &1_u32.to_le_bytes());
    device.write_config(at + 16, &[3]);
    assert_eq!((device.core.status(), config(&device, at + 16)), (3, [3]));
    device.write_config(at + 8, &(BAR as u32).to_le_bytes());
    assert_eq!(config(&device, at + 16), [0], "beyond the BAR");
}

#[test]
fn configuration_space_is_shown_until_reading_it_does_something() {
    let hides = Arc::<AtomicU16>::default();
    let shown = || {
        let page = Shown::new(1).unwrap().remove(0);
        let hides = Arc::clone(&hides);
        let hide = Box::new(move || {
            hides.fetch_add(1, Ordering::SeqCst);
        });
        (device().0.shown(page.clone(), hide), page)
    };
    let differs = |(device, page): &(VirtioPci, Shown)| {
        let mut bytes = [0; 4];
        (0..0x100).step_by(4).find(|&at| {
            page.read(at, &mut bytes);
            bytes != config(device, at as u16)
        })
    };
    let first = shown();
    assert_eq!(differs(&first), None);
    // The size of a BAR; an odd byte; beyond the end.
    for (at, data) in [(0x10, &[0xff; 4][..]), (0x3d, &[9]), (0x3c, &[9]), (0xfe, &[1; 4]), (0xffc, &[1; 4])]
    {
        first.0.write_config(at, data);
        assert_eq!(differs(&first), None, "{at:#x}");
    }
    let window = first.0.window_at as u16;
    first.0.write_config(window + 8, &0x14_u32.to_le_bytes());
    assert_eq!((differs(&first), hides.load(Ordering::SeqCst)), (None, 0));
    first.0.write_config(window + 12, &1_u32.to_le_bytes());
    first.0.write_config(window + 12, &4_u32.to_le_bytes());
    assert_eq!(hides.load(Ordering::SeqCst), 1, "once");
    let second = shown();
    second.0.restore(&first.0.save()).unwrap();
    assert_eq!(hides.load(Ordering::SeqCst), 2, "a restored driver may go on there");
}

#[test]
fn addresses_of_rings_at_once_or_in_halves() {
    let (device, _) = device();
    device.write_bar(Space::Memory, 0x20, &0x1_2345_6780_u64.to_le_bytes());
    assert_eq!(bar(&device, 0x20), 0x2345_6780_u32.to_le_bytes());
    assert_eq!(bar(&device, 0x24), 1_u32.to_le_bytes());
    device.write_bar(Space::Memory, 0x34, &7_u32.to_le_bytes());
    assert_eq!(bar(&device, 0x30), (7_u64 << 32).to_le_bytes());
    assert_eq!(bar(&device, 0x3c), [0; 8], "beyond the fields");
}

#[test]
fn vectors_that_there_are() {
    let (device, outside) = device();
    device.write_config(capabilities(&device)[0].0 + 2, &[0, 0x80]);
    device.write_bar(Space::Memory, 0x200c, &[0; 4]);
    device.write_bar(Space::Memory, 0x201c, &[0; 4]);
    for (vector, expected) in [(0_u16, 0_u16), (1, 1), (2, NO_VECTOR)] {
        device.write_bar(Space::Memory, 0x10, &vector.to_le_bytes());
        assert_eq!(bar(&device, 0x10), expected.to_le_bytes());
        device.signals.interrupt_config();
    }
    device.write_bar(Space::Memory, 0x1a, &[1, 0]);
    device.signals.interrupt_queue(0);
    assert_eq!(*outside.sent.lock().unwrap(), [0, 1, 1]);
    assert_eq!((bar::<1>(&device, 0x100), bar::<1>(&device, 0x100)), ([3], [0]), "ISR, once");
    device.write_bar(Space::Memory, 0x14, &[0]);
    assert_eq!(bar(&device, 0x1a), NO_VECTOR.to_le_bytes(), "after a reset");
}

#[test]
fn doorbells_follow_the_bars() {
    use Address::{Mmio, Pio};
    let (device, outside) = device();
    let take = || std::mem::take(&mut *outside.doorbells.lock().unwrap());
    let moved = |bar: u16, to: u64| device.write_config(0x10 + 4 * bar, &(to as u32).to_le_bytes());
    let rung = || device.core.doorbells()[0].read().unwrap();
    moved(1, 0xc100);
    assert!(take().is_empty(), "not before there is a driver");
    device.signals.connect(device.core.connected());
    assert_eq!(take(), [(true, Pio(0xc100))], "ports are enough for who knows them");
    device.write_bar(Space::Memory, 0x1000, &[0, 0]);
    assert_eq!((rung(), take()), (1, vec![(true, Mmio(START + 0x1000))]), "this driver does not");
    moved(0, START + BAR);
    assert_eq!(take(), [(false, Mmio(START + 0x1000)), (true, Mmio(START + BAR + 0x1000))]);
    moved(1, 0xc200);
    assert_eq!(take(), [(false, Pio(0xc100)), (true, Pio(0xc200))]);
    device.write_config(4, &[0, 0]);
    assert_eq!(take(), [(false, Pio(0xc200)), (false, Mmio(START + BAR + 0x1000))]);
    device.write_bar(Space::Ports, 0, &[0, 0]);
    assert_eq!(rung(), 1, "an exit rings as well");
    device.write_config(4, &[2, 0]);
    assert_eq!(take(), [(true, Mmio(START + BAR + 0x1000))]);
}

#[test]
fn without_ports_memory_is_connected_at_once() {
    let bell = Address::Mmio(START + 0x1000);
    let (off, outside) = device();
    off.write_config(4, &[2, 0]);
    off.signals.connect(off.core.connected());
    assert_eq!(*outside.doorbells.lock().unwrap(), [(true, bell)]);
    let (none, outside) = device_with(None);
    none.write_config(4, &[3, 0]);
    none.signals.connect(none.core.connected());
    assert_eq!((config(&none, 4), config(&none, 0x14)), ([2, 0], [0; 4]), "nothing to decode, no BAR");
    assert_eq!(*outside.doorbells.lock().unwrap(), [(true, bell)]);
    let is_bell = |&(at, _): &(u16, u8)| config(&none, at + 3) == [TYPE_NOTIFY];
    let bells: Vec<_> = capabilities(&none).into_iter().filter(is_bell).collect();
    assert_eq!((bells.len(), config(&none, bells[0].0 + 4)), (1, [0]));
}

#[test]
fn configuration_space_is_a_way_to_the_ports() {
    let (device, _) = device();
    let at = device.window_at as u16;
    device.write_config(at + 4, &[1]);
    device.write_config(at + 12, &2_u32.to_le_bytes());
    device.write_config(at + 16, &[0, 0]);
    assert_eq!(device.core.doorbells()[0].read().unwrap(), 1);
    device.write_config(at + 4, &[2]);
    assert_eq!(config(&device, at + 16), [0, 0], "there is no such BAR");
}

#[test]
fn state_comes_back() {
    let (first, _) = device();
    first.write_config(0x10, &(START as u32 + BAR as u32).to_le_bytes());
    first.write_config(capabilities(&first)[0].0 + 2, &[0, 0x80]);
    first.write_bar(Space::Memory, 0x10, &[1, 0]);
    first.write_bar(Space::Memory, 0x14, &[3]);
    first.write_bar(Space::Memory, 0x2000, &[0, 0x10, 0xe0, 0xfe]);
    first.signals.interrupt_config();
    let (second, _) = device();
    second.restore(&first.save()).unwrap();
    assert_eq!(second.save(), first.save());
    assert_eq!(second.bar(Space::Memory).unwrap().start, START + BAR);
    let mut damaged = first.save();
    damaged.truncate(20);
    assert!(second.restore(&damaged).is_err());
}
