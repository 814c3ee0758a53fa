//! All virtio devices at once on a real VM: pausing, saving and restoring while a guest keeps every one of them busy
//! (software-mode KVM is enough).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod load;

use std::thread;

use load::{Peers, Vm, has_kvm};
use vmm::config::TransportKind;
use vmm::machine::MachineState;
use vmm::state;

const TRANSPORTS: [TransportKind; 2] = [TransportKind::Mmio, TransportKind::Pci];

/// Half of the pauses on each transport.
#[test]
fn pauses_a_thousand_times_under_load_and_nothing_is_lost() {
    if !has_kvm() {
        return;
    }
    for transport in TRANSPORTS {
        let place = tempfile::tempdir().unwrap();
        let vm = Vm::boot(place.path(), transport, Peers::There);
        vm.wait_for(10);
        for round in 0..500 {
            vm.handle.pause().unwrap();
            let seen = vm.rings();
            thread::yield_now();
            assert!(vm.rings() == seen, "{transport:?}: something moves in the pause of round {round}");
            vm.handle.resume().unwrap();
            vm.wait_for_any();
        }
        vm.wait_for(20);
        vm.end();
    }
}

/// Without what ends with its process: streams of sockets.
#[test]
fn busy_devices_go_on_where_they_were_saved() {
    if !has_kvm() {
        return;
    }
    for transport in TRANSPORTS {
        let place = tempfile::tempdir().unwrap();
        let mut vm = Vm::boot(place.path(), transport, Peers::None);
        for _ in 0..5 {
            vm.wait_for(10);
            vm.handle.pause().unwrap();
            let saved = state::encode(&vm.handle.save().unwrap());
            let (seen, memory) = (vm.rings(), vm.copy());
            // Its end completes what is asked for; the copy knows nothing of that.
            vm.end();
            let state = Box::new(state::decode::<MachineState>(&saved).unwrap());
            vm = Vm::restore(memory, state, place.path(), transport);
            thread::yield_now();
            assert!(vm.rings() == seen, "it waits to be resumed");
            vm.handle.resume().unwrap();
        }
        vm.wait_for(10);
        vm.end();
    }
}
