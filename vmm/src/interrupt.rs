//! Signals between guest and devices: interrupts one way, doorbells the other.

use std::io;
use std::sync::OnceLock;

use vmm_sys_util::eventfd::EventFd;

use crate::kvm::Vm;

/// A line to an interrupt controller, edge-triggered: each call is one interrupt.
pub trait InterruptLine: Send + Sync {
    /// Raises the interrupt.
    fn trigger(&self) -> io::Result<()>;
}

/// A GSI of the in-kernel controllers, by irqfd. It is registered when it is first raised: a guest that never
/// sees an interrupt does not wait for the registration.
pub struct IrqfdLine {
    vm: Vm,
    gsi: u32,
    event: OnceLock<EventFd>,
}

impl IrqfdLine {
    /// The line of `gsi`.
    #[must_use]
    pub fn new(vm: Vm, gsi: u32) -> Self {
        Self { vm, gsi, event: OnceLock::new() }
    }

    fn event(&self) -> io::Result<&EventFd> {
        if let Some(event) = self.event.get() {
            return Ok(event);
        }
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        self.vm.register_irqfd(&event, self.gsi).map_err(io::Error::other)?;
        Ok(self.event.get_or_init(|| event))
    }
}

impl InterruptLine for IrqfdLine {
    fn trigger(&self) -> io::Result<()> {
        self.event()?.write(1)
    }
}

/// Turns a guest's writes to an address into writes to an eventfd, without leaving the kernel.
pub trait Doorbells: Send + Sync {
    /// Connects writes at `addr`: those of the four bytes `value`, or all. What cannot be connected stays an exit, which
    /// is slower and means the same.
    fn connect(&self, addr: u64, value: Option<u32>, event: &EventFd);

    /// Takes a connection back.
    fn disconnect(&self, addr: u64, value: Option<u32>, event: &EventFd);
}

impl Doorbells for Vm {
    fn connect(&self, addr: u64, value: Option<u32>, event: &EventFd) {
        // As the trait says.
        let _ = self.register_ioeventfd(event, addr, value);
    }

    fn disconnect(&self, addr: u64, value: Option<u32>, event: &EventFd) {
        // Fails only for what was not connected.
        let _ = self.unregister_ioeventfd(event, addr, value);
    }
}

/// No doorbells: every ring is an exit.
#[derive(Clone, Copy, Debug)]
pub struct NoDoorbells;

impl Doorbells for NoDoorbells {
    fn connect(&self, _addr: u64, _value: Option<u32>, _event: &EventFd) {}

    fn disconnect(&self, _addr: u64, _value: Option<u32>, _event: &EventFd) {}
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
