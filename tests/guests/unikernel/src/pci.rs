//! PCI's configuration space by its first way in (PCI 3.0, 3.2.2.3.2), which all machines with PCI have.
#![allow(unsafe_code, reason = "port I/O")]

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use x86_64::instructions::port::Port;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// The two ports.
#[derive(Debug)]
pub struct Ports(());

impl Ports {
    /// None where nobody answers there.
    #[must_use]
    pub fn find() -> Option<Self> {
        // SAFETY: the address register changes no memory.
        unsafe { Port::new(ADDRESS).write(ENABLE) };
        // SAFETY: as above.
        let back = unsafe { Port::<u32>::new(ADDRESS).read() };
        (back == ENABLE).then_some(Self(()))
    }
}

fn select(at: DeviceFunction, register: u8) {
    let function = u32::from(at.bus) << 16 | u32::from(at.device) << 11 | u32::from(at.function) << 8;
    // SAFETY: the address register changes no memory.
    unsafe { Port::new(ADDRESS).write(ENABLE | function | u32::from(register & 0xfc)) };
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, at: DeviceFunction, register: u8) -> u32 {
        select(at, register);
        // SAFETY: reading configuration space changes no memory.
        unsafe { Port::new(DATA).read() }
    }

    fn write_word(&mut self, at: DeviceFunction, register: u8, data: u32) {
        select(at, register);
        // SAFETY: only the virtio transport writes, and gives the device no memory but its queues.
        unsafe { Port::new(DATA).write(data) };
    }

    /// # Safety
    ///
    /// As the trait says: the clone may read what never changes.
    unsafe fn unsafe_clone(&self) -> Self {
        Self(())
    }
}
