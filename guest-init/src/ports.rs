//! The ports of [`abi::ports::JIFFY`].
#![allow(unsafe_code, reason = "port I/O")]

use core::sync::atomic::{AtomicBool, Ordering};

use abi::timeline::Mark;
use abi::{announce, ports};
use rustix::io::Errno;
use x86_64::instructions::port::{PortReadOnly, PortWriteOnly};

use crate::sys;

/// The right to use the ports. While it exists, this process may touch them without a fault.
#[derive(Clone, Copy)]
pub struct Ports(());

static OPEN: AtomicBool = AtomicBool::new(false);

impl Ports {
    /// The ports, if the machine says that it has them and the kernel lets us: it may lack ioperm, or forbid it
    /// (lockdown), and then we do without.
    pub fn announced() -> Option<Self> {
        let leaf = core::arch::x86_64::__cpuid(announce::LEAF);
        if announce::is_jiffy([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]) { Self::open().ok() } else { None }
    }

    /// The ports, whatever the machine says.
    pub fn open() -> Result<Self, Errno> {
        sys::ioperm(ports::JIFFY, ports::JIFFY_LEN)?;
        OPEN.store(true, Ordering::Relaxed);
        Ok(Self(()))
    }

    /// The ports, if they were opened before.
    pub fn opened() -> Option<Self> {
        OPEN.load(Ordering::Relaxed).then_some(Self(()))
    }

    /// Notes a moment in the boot timeline.
    pub fn mark(self, mark: Mark) {
        // SAFETY: `self` witnesses the right; the port does nothing but this.
        unsafe { PortWriteOnly::new(ports::TIMELINE).write(mark.0) };
    }

    /// Microseconds since the timeline's origin, modulo 2^32.
    pub fn elapsed_us(self) -> u32 {
        // SAFETY: `self` witnesses the right; reading changes nothing.
        unsafe { PortReadOnly::new(ports::TIMELINE).read() }
    }

    /// Reports the exit status of the workload.
    pub fn exit_status(self, status: u8) {
        // SAFETY: `self` witnesses the right; the port does nothing but this.
        unsafe { PortWriteOnly::new(ports::EXIT_STATUS).write(status) };
    }
}
