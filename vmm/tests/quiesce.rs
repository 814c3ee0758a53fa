//! Pausing, saving and restoring, with a guest on this host's KVM (software mode is enough).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm::boot::BootCpu;
use vmm::config::{RawConfig, VmSpec};
use vmm::control::{Error, Handle, Running, Signals};
use vmm::devices::console::{ConsoleOutput, OutputPump};
use vmm::kvm::Host;
use vmm::machine::{self, MachineState, Start, Wiring};
use vmm::memory::Memory;
use vmm::memory::layout::RamLayout;
use vmm::outcome::Outcome;
use vmm::sandbox;
use vmm::state;
use vmm::timeline::Timeline;

const CODE: u32 = 0x10_1000;
/// Where the guest keeps its count.
const COUNT: u64 = 0x10_2000;
/// `1: inc eax; mov [COUNT], eax; out 0x80, al; jmp 1b`: the count is in a register as well as in memory, and half
/// of the exits are ports.
const GUEST: [u8; 10] = [0x40, 0xa3, 0x00, 0x20, 0x10, 0x00, 0xe6, 0x80, 0xeb, 0xf6];

/// Whether there is a KVM to test with; a run that must not skip anything fails without.
fn has_kvm() -> bool {
    let found = Host::open();
    if let Err(e) = &found {
        assert!(std::env::var_os("JIFFY_REQUIRE").is_none(), "{e}");
        eprintln!("skipped: {e}");
    }
    found.is_ok()
}

struct Vm {
    memory: Memory,
    handle: Handle,
    thread: JoinHandle<Result<Outcome, Error>>,
}

fn spec(cpus: u8) -> VmSpec {
    let toml = format!("kernel = \"unused\"\ncpus = {cpus}\nmemory = \"16M\"\n");
    RawConfig::parse(&"vm.toml".parse().unwrap(), toml.as_bytes()).unwrap().into_spec().unwrap()
}

fn run(memory: Memory, start: Start, paused: bool, cpus: u8) -> Running {
    // The signal that brings vCPUs out of the guest needs its handler.
    let _signals = Signals::take_over().unwrap();
    let console = ConsoleOutput::new().unwrap();
    let timeline = Arc::new(Timeline::begin(None, false));
    let wiring = Wiring { console: console.clone(), input: None, timeline: Arc::clone(&timeline) };
    let machine =
        machine::build(&Host::open().unwrap(), &spec(cpus), memory, start, &wiring, Vec::new()).unwrap();
    let sealed = sandbox::seal().unwrap();
    let mut running = Running::start(machine, &timeline, paused, &sealed).unwrap();
    running.serve(vec![Box::new(OutputPump::new(console, None))]).unwrap();
    running
}

fn start(memory: Memory, start: Start, paused: bool, cpus: u8) -> Vm {
    let running = run(memory.clone(), start, paused, cpus);
    let handle = running.handle();
    Vm { memory, handle, thread: thread::spawn(move || running.run(None)) }
}

fn load(cpus: u8) -> (Memory, Start) {
    let spec = spec(cpus);
    let memory = Memory::new(&spec.memory, &RamLayout::new(spec.memory.size)).unwrap();
    memory.write(CODE.into(), &GUEST).unwrap();
    (memory, Start::Boot { cpu: BootCpu::Protected { eip: CODE, ebx: 0 }, firmware: None })
}

fn boot(cpus: u8) -> Vm {
    let (memory, how) = load(cpus);
    start(memory, how, false, cpus)
}

fn count(memory: &Memory) -> u32 {
    let mut bytes = [0; 4];
    memory.read(COUNT, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

impl Vm {
    fn count(&self) -> u32 {
        count(&self.memory)
    }

    fn wait_beyond(&self, count: u32) {
        while self.count() <= count {
            thread::yield_now();
        }
    }

    fn end(self) -> Memory {
        self.handle.end(libc::SIGTERM as u8);
        assert_eq!(self.thread.join().unwrap().unwrap(), Outcome::Killed { signal: libc::SIGTERM as u8 });
        self.memory
    }
}

#[test]
fn pauses_a_thousand_times_and_nothing_moves() {
    if !has_kvm() {
        return;
    }
    let vm = boot(2);
    let mut last = 0;
    for round in 0..1000 {
        vm.handle.pause().unwrap();
        let count = vm.count();
        thread::yield_now();
        assert_eq!(vm.count(), count, "round {round}: the guest runs although it is paused");
        vm.handle.resume().unwrap();
        last = count;
    }
    vm.wait_beyond(last);
    vm.end();
}

/// Ends a guest while it ends itself: the owner's commands meet threads that are just going.
#[test]
fn ends_cleanly_a_hundred_times() {
    if !has_kvm() {
        return;
    }
    for _ in 0..100 {
        let vm = boot(2);
        // mov dx, ACPI_SLEEP_CONTROL; mov al, 0x34; out dx, al; jmp $
        vm.memory.write(CODE.into(), &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe]).unwrap();
        vm.handle.end(libc::SIGTERM as u8);
        let outcome = vm.thread.join().unwrap().unwrap();
        let expected = [Outcome::PowerOff { status: None }, Outcome::Killed { signal: libc::SIGTERM as u8 }];
        assert!(expected.contains(&outcome), "{outcome}");
    }
}

/// As when something fails after the guest has been started: it must not outlive its memory.
#[test]
fn a_guest_that_is_dropped_runs_no_more() {
    if !has_kvm() {
        return;
    }
    let (memory, how) = load(2);
    let running = run(memory.clone(), how, false, 2);
    while count(&memory) == 0 {
        thread::yield_now();
    }
    drop(running);
    let last = count(&memory);
    assert!((0..1000).all(|_| {
        thread::yield_now();
        count(&memory) == last
    }));
}

#[test]
fn a_running_vm_has_no_state_to_save() {
    if !has_kvm() {
        return;
    }
    let vm = boot(1);
    let refused = vm.handle.save().unwrap_err();
    assert_eq!(refused.to_string(), "the VM is running, not paused");
    vm.end();
}

#[test]
fn goes_on_where_it_was_saved() {
    if !has_kvm() {
        return;
    }
    let first = boot(1);
    first.wait_beyond(1000);
    first.handle.pause().unwrap();
    let saved = state::encode(&first.handle.save().unwrap());
    let count = first.count();
    let memory = first.end();

    let state = Box::new(state::decode::<MachineState>(&saved).unwrap());
    let second = start(memory, Start::Restore { state, firmware: None }, true, 1);
    assert_eq!(second.count(), count, "it waits to be resumed");
    second.handle.resume().unwrap();
    let mut seen = count;
    while seen <= count + 1000 {
        seen = second.count();
        assert!(seen >= count, "it counts from the start again: {seen} after {count}");
    }
    second.end();
}

#[test]
fn state_of_another_machine_is_refused() {
    if !has_kvm() {
        return;
    }
    let vm = boot(2);
    vm.handle.pause().unwrap();
    let state = Box::new(vm.handle.save().unwrap());
    let memory = vm.end();
    let wiring = Wiring {
        console: ConsoleOutput::new().unwrap(),
        input: None,
        timeline: Arc::new(Timeline::begin(None, false)),
    };
    let start = Start::Restore { state, firmware: None };
    let refused =
        machine::build(&Host::open().unwrap(), &spec(1), memory, start, &wiring, Vec::new()).err().unwrap();
    assert_eq!(refused.to_string(), "saved state has 2 vCPUs, the machine 1");
}

#[test]
fn damaged_state_is_refused() {
    if !has_kvm() {
        return;
    }
    let vm = boot(1);
    vm.handle.pause().unwrap();
    let saved = state::encode(&vm.handle.save().unwrap());
    vm.end();
    for len in (0..saved.len()).step_by(97) {
        assert!(state::decode::<MachineState>(&saved[..len]).is_err(), "{len} of {} bytes", saved.len());
    }
}
