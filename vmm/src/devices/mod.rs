//! Device models. A device knows nothing of threads, addresses or KVM: it is put on a bus, given lines and
//! sinks, and answers.

pub mod console;
pub mod event_loop;
pub mod legacy;
pub mod pci;
pub mod rate;
pub mod virtio;
pub mod worker;
