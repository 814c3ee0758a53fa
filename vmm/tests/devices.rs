//! A virtio device on a real VM: pausing, saving and restoring while a guest keeps it busy (software-mode KVM is
//! enough).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abi::layout;
use vmm::boot::BootCpu;
use vmm::config::{RawConfig, TransportKind, VmSpec};
use vmm::control::{Error, Handle, Running, Signals};
use vmm::devices::console::ConsoleOutput;
use vmm::devices::virtio::Entropy;
use vmm::kvm::Host;
use vmm::machine::{self, Attachment, MachineState, Start, Wiring};
use vmm::memory::Memory;
use vmm::memory::layout::RamLayout;
use vmm::sandbox;
use vmm::state;
use vmm::timeline::Timeline;
use vmm::vcpu::Buses;

const CODE: u32 = 0x10_1000;
const DESCRIPTORS: u32 = 0x20_0000;
const AVAIL: u32 = 0x20_1000;
const USED: u32 = 0x20_2000;
const BUFFER: u32 = 0x20_3000;
/// After this long an answer is lost.
const LOST: Duration = Duration::from_secs(30);
/// Offset of a notification, in a window of virtio-mmio and in a BAR of virtio-pci.
const NOTIFY: [(TransportKind, u32); 2] = [
    (TransportKind::Mmio, layout::VIRTIO_MMIO.start as u32 + 0x50),
    (TransportKind::Pci, layout::PCI_MMIO.start as u32 + 0x1000),
];

fn has_kvm() -> bool {
    let found = Host::open();
    if let Err(e) = &found {
        assert!(std::env::var_os("JIFFY_REQUIRE").is_none(), "{e}");
        eprintln!("skipped: {e}");
    }
    found.is_ok()
}

/// `1: inc word [AVAIL + 2]; mov dword [notify], 0; 2: mov ax, [USED + 2]; cmp ax, [AVAIL + 2]; jne 2b; jmp 1b`: one
/// request after the other, without interrupts.
fn guest(notify: u32) -> Vec<u8> {
    let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) =
        ((AVAIL + 2).to_le_bytes(), notify.to_le_bytes(), (USED + 2).to_le_bytes());
    vec![
        0x66, 0xff, 0x05, a, b, c, d, 0xc7, 0x05, e, f, g, h, 0, 0, 0, 0, 0x66, 0xa1, i, j, k, l, 0x66, 0x3b,
        0x05, a, b, c, d, 0x75, 0xf1, 0xeb, 0xde,
    ]
}

/// Brings the device up as a driver would, from outside: the guest's code is a loop and no more.
fn initialise(buses: &Buses, transport: TransportKind) {
    let write = |offset: u64, data: &[u8]| {
        let base = match transport {
            TransportKind::Mmio => layout::VIRTIO_MMIO.start,
            TransportKind::Pci => layout::PCI_MMIO.start,
        };
        buses.mmio.write(base + offset, data);
    };
    let dword = |offset: u64, value: u32| write(offset, &value.to_le_bytes());
    match transport {
        TransportKind::Mmio => {
            for (offset, value) in [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 0xb), (0x38, 1)] {
                dword(offset, value);
            }
            for (offset, value) in [(0x80, DESCRIPTORS), (0x90, AVAIL), (0xa0, USED), (0x44, 1), (0x70, 0xf)]
            {
                dword(offset, value);
            }
        }
        TransportKind::Pci => {
            write(0x14, &[3]);
            dword(0x08, 1);
            dword(0x0c, 1);
            write(0x14, &[0xb]);
            write(0x18, &[1, 0]);
            for (offset, value) in [(0x20, DESCRIPTORS), (0x28, AVAIL), (0x30, USED)] {
                dword(offset, value);
            }
            write(0x1c, &[1, 0]);
            write(0x14, &[0xf]);
        }
    }
}

struct Vm {
    memory: Memory,
    handle: Handle,
    thread: JoinHandle<Result<vmm::outcome::Outcome, Error>>,
}

fn spec() -> VmSpec {
    RawConfig::parse(&"vm.toml".parse().unwrap(), b"kernel = 'unused'\nmemory = '16M'\n")
        .unwrap()
        .into_spec()
        .unwrap()
}

fn start(memory: Memory, start: Start, transport: TransportKind, paused: bool) -> Vm {
    let _signals = Signals::take_over().unwrap();
    let timeline = Arc::new(Timeline::begin(None, false));
    let wiring =
        Wiring { console: ConsoleOutput::new().unwrap(), input: None, timeline: Arc::clone(&timeline) };
    let boots = matches!(start, Start::Boot { .. });
    let attachment = Attachment { name: "rng".to_owned(), transport, device: Box::new(Entropy) };
    let host = Host::open().unwrap();
    let machine = machine::build(&host, &spec(), memory.clone(), start, &wiring, vec![attachment]).unwrap();
    if boots {
        initialise(&machine.board.buses, transport);
    }
    let mut running = Running::start(machine, &timeline, paused, &sandbox::seal().unwrap()).unwrap();
    let sources = running.board().devices.sources();
    running.serve(sources).unwrap();
    let handle = running.handle();
    Vm { memory, handle, thread: thread::spawn(move || running.run(None)) }
}

fn boot(transport: TransportKind, notify: u32) -> Vm {
    let spec = spec();
    let memory = Memory::new(&spec.memory, &RamLayout::new(spec.memory.size)).unwrap();
    memory.write(CODE.into(), &guest(notify)).unwrap();
    // Descriptor 0: a buffer of 8 bytes that the device writes. No interrupts are wanted.
    let mut descriptor = u64::from(BUFFER).to_le_bytes().to_vec();
    descriptor.extend([8, 0, 0, 0, 2, 0, 0, 0]);
    memory.write(DESCRIPTORS.into(), &descriptor).unwrap();
    memory.write(AVAIL.into(), &[1, 0]).unwrap();
    let cpu = BootCpu::Protected { eip: CODE, ebx: 0 };
    start(memory, Start::Boot { cpu, firmware: None }, transport, false)
}

impl Vm {
    fn index(&self, ring: u32) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read(u64::from(ring) + 2, &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn buffer(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        self.memory.read(BUFFER.into(), &mut bytes).unwrap();
        bytes
    }

    /// Waits for answers to `requests` more requests. The guest waits for each answer before it asks again, so one that
    /// was lost would be the last.
    fn wait_for(&self, requests: u16) {
        let (before, start) = (self.index(USED), Instant::now());
        while self.index(USED).wrapping_sub(before) < requests {
            assert!(
                start.elapsed() < LOST,
                "no answer: {} asked, {} answered",
                self.index(AVAIL),
                self.index(USED)
            );
            thread::yield_now();
        }
    }

    fn end(self) -> Memory {
        self.handle.end(libc::SIGTERM as u8);
        self.thread.join().unwrap().unwrap();
        self.memory
    }
}

#[test]
fn pauses_a_thousand_times_under_load_and_nothing_is_lost() {
    if !has_kvm() {
        return;
    }
    for (transport, notify) in NOTIFY {
        let vm = boot(transport, notify);
        vm.wait_for(10);
        for round in 0..1000 {
            vm.handle.pause().unwrap();
            let seen = (vm.index(AVAIL), vm.index(USED), vm.buffer());
            thread::yield_now();
            assert_eq!((vm.index(AVAIL), vm.index(USED), vm.buffer()), seen, "round {round}");
            assert!(seen.0.wrapping_sub(seen.1) <= 1, "round {round}: {seen:?}");
            vm.handle.resume().unwrap();
            vm.wait_for(1);
        }
        vm.wait_for(100);
        vm.end();
    }
}

#[test]
fn a_busy_device_goes_on_where_it_was_saved() {
    if !has_kvm() {
        return;
    }
    for (transport, notify) in NOTIFY {
        let mut vm = boot(transport, notify);
        for _ in 0..5 {
            vm.wait_for(10);
            vm.handle.pause().unwrap();
            let saved = state::encode(&vm.handle.save().unwrap());
            let used = vm.index(USED);
            let memory = vm.end();
            let state = Box::new(state::decode::<MachineState>(&saved).unwrap());
            vm = start(memory, Start::Restore { state, firmware: None }, transport, true);
            thread::yield_now();
            assert_eq!(vm.index(USED), used, "it waits to be resumed");
            vm.handle.resume().unwrap();
        }
        vm.wait_for(10);
        vm.end();
    }
}
