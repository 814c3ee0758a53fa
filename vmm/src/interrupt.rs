//! Signals between guest and devices: interrupts one way, doorbells the other.

use std::io;
use std::sync::{Mutex, PoisonError};

use kvm_ioctls::IoEventAddress;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::{self, Vm};

/// A line to an interrupt controller, edge-triggered: each call is one interrupt.
pub trait InterruptLine: Send + Sync {
    /// Raises the interrupt.
    fn trigger(&self) -> io::Result<()>;
}

/// A pin of the in-kernel controllers. The call that raises it has delivered it when it returns: by an irqfd a worker of
/// the kernel's would do so later, which takes longer, and what is under way there is in nobody's saved state.
pub struct Pin {
    vm: Vm,
    gsi: u32,
}

impl Pin {
    /// The pin that `gsi` stands for.
    #[must_use]
    pub fn new(vm: Vm, gsi: u32) -> Self {
        Self { vm, gsi }
    }
}

impl InterruptLine for Pin {
    fn trigger(&self) -> io::Result<()> {
        self.vm.pulse(self.gsi).map_err(io::Error::other)
    }
}

/// A message that interrupts: a write of `data` to `address`, where local APICs listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Guest-physical address.
    pub address: u64,
    /// What says which interrupt it is.
    pub data: u32,
}

/// The messages of one device.
pub trait Messages: Send + Sync {
    /// Sends the message of a vector.
    fn send(&self, vector: u16, message: Message);
}

/// Messages by irqfd: each vector has a GSI, which is routed to its message when it is first sent or has changed.
pub struct IrqfdMessages {
    vm: Vm,
    first_gsi: u32,
    routed: Mutex<Vec<Option<(EventFd, Message)>>>,
}

impl IrqfdMessages {
    /// Vectors by the GSIs from `first_gsi` on.
    #[must_use]
    pub fn new(vm: Vm, first_gsi: u32) -> Self {
        Self { vm, first_gsi, routed: Mutex::new(Vec::new()) }
    }

    fn route(&self, gsi: u32, old: Option<EventFd>, message: Message) -> Result<EventFd, kvm::Error> {
        self.vm.route_message(gsi, message.address, message.data)?;
        if let Some(event) = old {
            return Ok(event);
        }
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(kvm::Error::Descriptor)?;
        self.vm.register_irqfd(&event, gsi)?;
        Ok(event)
    }
}

impl Messages for IrqfdMessages {
    fn send(&self, vector: u16, message: Message) {
        let mut routed = self.routed.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::from(vector);
        if routed.len() <= index {
            routed.resize_with(index + 1, || None);
        }
        let entry = &mut routed[index];
        if entry.as_ref().is_none_or(|(_, current)| *current != message) {
            let old = entry.take().map(|(event, _)| event);
            // Fails when KVM refuses the message or is out of routes: the guest then misses an interrupt, as it would
            // on hardware for a message that reaches no APIC.
            *entry = self.route(self.first_gsi + u32::from(vector), old, message).ok().map(|e| (e, message));
        }
        if let Some((event, _)) = entry {
            let _ = event.write(1);
        }
    }
}

/// Where a doorbell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Guest-physical.
    Mmio(u64),
    /// An I/O port.
    Pio(u64),
}

impl From<Address> for IoEventAddress {
    fn from(address: Address) -> Self {
        match address {
            Address::Mmio(at) => Self::Mmio(at),
            Address::Pio(at) => Self::Pio(at),
        }
    }
}

/// Turns a guest's writes to an address into writes to an eventfd, without leaving the kernel.
pub trait Doorbells: Send + Sync {
    /// Connects writes at `addr`: those of the four bytes `value`, or all. What cannot be connected stays an exit, which
    /// is slower and means the same.
    fn connect(&self, addr: Address, value: Option<u32>, event: &EventFd);

    /// Takes a connection back.
    fn disconnect(&self, addr: Address, value: Option<u32>, event: &EventFd);
}

impl Doorbells for Vm {
    fn connect(&self, addr: Address, value: Option<u32>, event: &EventFd) {
        // As the trait says.
        let _ = self.register_ioeventfd(event, addr.into(), value);
    }

    fn disconnect(&self, addr: Address, value: Option<u32>, event: &EventFd) {
        // Fails only for what was not connected.
        let _ = self.unregister_ioeventfd(event, addr.into(), value);
    }
}

/// No doorbells: every ring is an exit.
#[derive(Clone, Copy, Debug)]
pub struct NoDoorbells;

impl Doorbells for NoDoorbells {
    fn connect(&self, _addr: Address, _value: Option<u32>, _event: &EventFd) {}

    fn disconnect(&self, _addr: Address, _value: Option<u32>, _event: &EventFd) {}
}

/// A line that counts, for tests.
#[derive(Debug, Default)]
pub struct CountingLine(pub std::sync::atomic::AtomicU32);

impl InterruptLine for CountingLine {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}
