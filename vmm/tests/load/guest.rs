//! The guest's code and its rings. Its driver is the test itself, which sets the rings up before it runs.

use std::collections::HashSet;
use std::thread;

use abi::layout;
use vmm::boot::BootCpu;
use vmm::config::TransportKind;
use vmm::devices::virtio::DeviceKind;
use vmm::devices::virtio::transport::mmio::WINDOW;
use vmm::devices::virtio::transport::pci::BAR;
use vmm::machine::Attachment;
use vmm::memory::Memory;
use vmm::vcpu::Buses;

use super::peers::PORT;

const CODE: u32 = 0x10_1000;
/// Not zero once the guest may begin.
const GO: u32 = 0x10_0ff0;
const RINGS: u32 = 0x20_0000;
/// Bytes of the rings and buffers of each queue.
pub const RING_BYTES: u32 = 0x8000;
const AVAIL: u32 = 0x1000;
const USED: u32 = 0x2000;
const BUFFERS: u32 = 0x3000;
/// Descriptors in each queue.
const SIZE: u16 = 16;
/// Requests that are made at once, when all were answered that were made before.
const DEPTH: u16 = 4;
/// The most parts that a request has: so many descriptors are for each.
const PARTS: u16 = 2;
/// How the guest begins.
pub const CPU: BootCpu = BootCpu::Protected { eip: CODE, ebx: 0 };

/// A queue that the guest uses, and its requests, which are all alike.
#[derive(Debug)]
pub struct Queue {
    kind: DeviceKind,
    device: u32,
    number: u16,
    at: u32,
    notify: u32,
    /// Bytes for the device, or room for its answer.
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Out(Vec<u8>),
    In(u32),
}

/// A packet of the socket device (virtio 1.3, 5.10.6) with this `op`, from port 1024 of the guest.
fn packet(op: u8, data: &[u8]) -> Vec<u8> {
    let mut packet = [3_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat();
    for word in [1024, PORT, data.len() as u32, 1 | u32::from(op) << 16, 0, u32::MAX, 0] {
        packet.extend(word.to_le_bytes());
    }
    packet.extend(data);
    packet
}

/// `VIRTIO_VSOCK_OP_REQUEST` and `VIRTIO_VSOCK_OP_RW`.
const REQUEST: u8 = 1;
const RW: u8 = 5;

/// The requests of a device, each for one of its queues.
fn requests(kind: DeviceKind) -> Vec<(u16, Vec<Part>)> {
    // A write of a sector, the flush of persistent memory, a frame with its header, a byte.
    let write = [&[1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0][..], &[0x5a; 512]].concat();
    match kind {
        DeviceKind::Block => vec![(0, vec![Part::Out(write), Part::In(1)])],
        DeviceKind::Pmem => vec![(0, vec![Part::Out(vec![0; 4]), Part::In(4)])],
        DeviceKind::Net => vec![(0, vec![Part::In(2048)]), (1, vec![Part::Out(vec![0; 12 + 60])])],
        DeviceKind::Vsock => vec![(0, vec![Part::In(64)]), (1, vec![Part::Out(packet(RW, b"x"))])],
        DeviceKind::Console => vec![(1, vec![Part::Out(b"x".to_vec())])],
        DeviceKind::Entropy => vec![(0, vec![Part::In(8)])],
    }
}

/// The queues of these devices, which the machine gives their places in this order.
pub fn queues(devices: &[Attachment], transport: TransportKind) -> Vec<Queue> {
    let mut all = Vec::new();
    for (attachment, index) in devices.iter().zip(0..) {
        let kind = attachment.device.kind();
        let (device, notify, stride) = match transport {
            TransportKind::Mmio | TransportKind::MmioCmdline => {
                (layout::VIRTIO_MMIO.start + index * WINDOW, 0x50, 0)
            }
            TransportKind::Pci => (layout::PCI_MMIO.start + index * BAR, 0x1000, 4),
        };
        for (number, parts) in requests(kind) {
            let (device, at) = (device as u32, RINGS + all.len() as u32 * RING_BYTES);
            all.push(Queue {
                kind,
                device,
                number,
                at,
                notify: device + notify + stride * u32::from(number),
                parts,
            });
        }
    }
    all
}

impl Queue {
    /// Where its rings and buffers are.
    pub fn rings(&self) -> u64 {
        self.at.into()
    }

    /// Requests that were made available, modulo 2^16.
    pub fn asked(&self, memory: &Memory) -> u16 {
        word(memory, self.at + AVAIL + 2)
    }

    /// Requests that were answered, modulo 2^16.
    pub fn answered(&self, memory: &Memory) -> u16 {
        word(memory, self.at + USED + 2)
    }

    /// Whether each request prints a byte.
    pub fn prints(&self) -> bool {
        self.kind == DeviceKind::Console
    }

    /// Puts the requests into memory: a chain for each of [`DEPTH`], which the slots of the available ring name in turn.
    fn write(&self, memory: &Memory, parts: &[Part]) {
        let mut addr = self.at + BUFFERS;
        for head in (0..DEPTH).map(|request| request * PARTS) {
            for (part, index) in parts.iter().zip(head..) {
                let next = u16::from(usize::from(index - head) + 1 < parts.len());
                let (len, flags) = match part {
                    Part::Out(bytes) => {
                        memory.write(addr.into(), bytes).unwrap();
                        (bytes.len() as u32, next)
                    }
                    Part::In(len) => (*len, next | 2),
                };
                let mut descriptor = u64::from(addr).to_le_bytes().to_vec();
                descriptor.extend(len.to_le_bytes());
                descriptor.extend([flags, index + 1].into_iter().flat_map(u16::to_le_bytes));
                memory.write(u64::from(self.at) + 16 * u64::from(index), &descriptor).unwrap();
                addr += len;
            }
        }
        // No interrupts are wanted.
        let mut ring = vec![1, 0, 0, 0];
        ring.extend((0..SIZE).flat_map(|slot| (slot % DEPTH * PARTS).to_le_bytes()));
        let index = self.asked(memory).to_le_bytes();
        ring[2..4].copy_from_slice(&index);
        memory.write((self.at + AVAIL).into(), &ring).unwrap();
    }

    /// How many of the requests that were last made have no answer. Those that have one are different ones.
    pub fn open(&self, memory: &Memory) -> u16 {
        let (asked, answered) = (self.asked(memory), self.answered(memory));
        let open = asked.wrapping_sub(answered);
        assert!(open <= DEPTH, "{self:?}: {open} requests without an answer");
        let slots = (open..DEPTH).map(|back| answered.wrapping_sub(back - open + 1) % SIZE);
        let heads: HashSet<u16> =
            slots.map(|slot| word(memory, self.at + USED + 4 + 8 * u32::from(slot))).collect();
        let made = |head: &u16| head.is_multiple_of(PARTS) && head / PARTS < DEPTH;
        assert!(
            heads.len() == usize::from(DEPTH - open) && heads.iter().all(made),
            "{self:?}: {heads:?} were answered"
        );
        open
    }

    /// Makes one request available, and rings.
    fn ask(&self, buses: &Buses, memory: &Memory) {
        let next = self.asked(memory).wrapping_add(1);
        memory.write((self.at + AVAIL + 2).into(), &next.to_le_bytes()).unwrap();
        buses.mmio.write(self.notify.into(), &u32::from(self.number).to_le_bytes());
    }

    fn wait(&self, memory: &Memory) {
        while self.answered(memory) != self.asked(memory) {
            thread::yield_now();
        }
    }
}

fn word(memory: &Memory, addr: u32) -> u16 {
    let mut bytes = [0; 2];
    memory.read(addr.into(), &mut bytes).unwrap();
    u16::from_le_bytes(bytes)
}

/// Puts something to wait in into memory, for a guest that runs before its devices are ready:
/// `1: cmp byte [GO], 0; je 1b`, behind which [`go`] puts the loop.
pub fn load(memory: &Memory) {
    let [a, b, c, d] = GO.to_le_bytes();
    memory.write(CODE.into(), &[0x80, 0x3d, a, b, c, d, 0, 0x74, 0xf7]).unwrap();
}

/// The loop: for each queue `mov ax, [used + 2]; cmp ax, [avail + 2]; jne 1f; add word [avail + 2], DEPTH;
/// mov dword [notify], number; 1:`, and again.
fn code(queues: &[Queue]) -> Vec<u8> {
    let mut code = Vec::new();
    let mut emit = |opcode: &[u8], operands: &[u32]| {
        code.extend(opcode);
        operands.iter().for_each(|operand| code.extend(operand.to_le_bytes()));
    };
    for queue in queues {
        emit(&[0x66, 0xa1], &[queue.at + USED + 2]);
        emit(&[0x66, 0x3b, 0x05], &[queue.at + AVAIL + 2]);
        emit(&[0x75, 0x12], &[]);
        emit(&[0x66, 0x83, 0x05], &[queue.at + AVAIL + 2]);
        emit(&[DEPTH as u8], &[]);
        emit(&[0xc7, 0x05], &[queue.notify, queue.number.into()]);
    }
    let back = -(code.len() as i32 + 5);
    code.push(0xe9);
    code.extend(back.to_le_bytes());
    code
}

/// Brings the devices up as a driver would (3.1.1), with `VERSION_1` alone.
pub fn initialise(buses: &Buses, memory: &Memory, queues: &[Queue], transport: TransportKind) {
    let mut devices: Vec<u32> = queues.iter().map(|queue| queue.device).collect();
    devices.dedup();
    for device in devices {
        let write = |offset: u64, data: &[u8]| {
            buses.mmio.write(u64::from(device) + offset, data);
        };
        let dword = |offset: u64, value: u32| write(offset, &value.to_le_bytes());
        let status = |value: u8| match transport {
            TransportKind::Mmio | TransportKind::MmioCmdline => dword(0x70, value.into()),
            TransportKind::Pci => write(0x14, &[value]),
        };
        let (select, features) = if transport == TransportKind::Pci { (0x08, 0x0c) } else { (0x24, 0x20) };
        status(3);
        dword(select, 1);
        dword(features, 1);
        status(0xb);
        for queue in queues.iter().filter(|queue| queue.device == device) {
            queue.write(memory, &queue.parts);
            let areas = [queue.at, queue.at + AVAIL, queue.at + USED];
            let at = match transport {
                TransportKind::Mmio | TransportKind::MmioCmdline => {
                    dword(0x30, queue.number.into());
                    dword(0x38, SIZE.into());
                    [0x80, 0x90, 0xa0]
                }
                TransportKind::Pci => {
                    write(0x16, &queue.number.to_le_bytes());
                    write(0x18, &SIZE.to_le_bytes());
                    [0x20, 0x28, 0x30]
                }
            };
            at.into_iter().zip(areas).for_each(|(offset, area)| dword(offset, area));
            match transport {
                TransportKind::Mmio | TransportKind::MmioCmdline => dword(0x44, 1),
                TransportKind::Pci => write(0x1c, &[1, 0]),
            }
        }
        status(0xf);
    }
}

/// Opens the stream of the socket device, if there is one, then lets the guest begin.
pub fn go(buses: &Buses, memory: &Memory, queues: &[Queue]) {
    let mut of_vsock = queues.iter().filter(|queue| queue.kind == DeviceKind::Vsock);
    if let (Some(receive), Some(transmit)) = (of_vsock.next(), of_vsock.next()) {
        transmit.write(memory, &[Part::Out(packet(REQUEST, b""))]);
        [receive, transmit].iter().for_each(|queue| queue.ask(buses, memory));
        [receive, transmit].iter().for_each(|queue| queue.wait(memory));
        transmit.write(memory, &transmit.parts);
    }
    memory.write(u64::from(CODE) + 9, &code(queues)).unwrap();
    memory.write(GO.into(), &[1]).unwrap();
}
