//! A PCI Express host with one root bus, as little of it as guests need: configuration space by ECAM (PCI Express Base
//! 5.0, 7.2.2), a window of memory and one of ports for BARs, messages for interrupts. There is no bridge, and there
//! are no pins.

mod config;
mod msix;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::layout::{PCI_ECAM, Range};

pub use config::{Bars, ConfigSpace, Identity, Space};
pub use msix::{Msix, MsixState, NO_VECTOR};

use crate::bus::{BusDevice, Effect};
use crate::state;

/// Bytes of a function's configuration space in ECAM.
const FUNCTION: u64 = 0x1000;
/// Bits of a configuration address (7.2.2): bus, device and function are above them.
const BUS_SHIFT: u32 = 20;
const DEVICE_SHIFT: u32 = 15;

/// A function on the bus; the only one of its device.
pub trait Function: Send + Sync {
    /// Reads configuration space; `data` comes filled with zeroes.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Writes configuration space.
    fn write_config(&self, offset: u16, data: &[u8]);

    /// Where a BAR is, if the guest has its decoding on.
    fn bar(&self, space: Space) -> Option<Range>;

    /// Reads in a BAR; `data` comes filled with ones.
    fn read_bar(&self, space: Space, offset: u64, data: &mut [u8]);

    /// Writes in a BAR.
    fn write_bar(&self, space: Space, offset: u64, data: &[u8]);

    /// What goes into a snapshot.
    fn save(&self) -> Vec<u8>;

    /// Takes back what [`Function::save`] gave.
    fn restore(&self, saved: &[u8]) -> Result<(), state::Error>;
}

/// The functions of the root bus by device number.
#[derive(Clone, Default)]
pub struct RootBus {
    functions: Arc<Vec<(u8, Arc<dyn Function>)>>,
}

impl RootBus {
    /// A bus with these functions.
    #[must_use]
    pub fn new(functions: Vec<(u8, Arc<dyn Function>)>) -> Self {
        Self { functions: Arc::new(functions) }
    }

    /// The function at an address of ECAM, and the offset in its configuration space.
    fn find(&self, address: u64) -> Option<(&dyn Function, u16)> {
        let device = address >> DEVICE_SHIFT;
        let offset = (address % FUNCTION) as u16;
        let (_, function) = self.functions.iter().find(|(own, _)| u64::from(*own) == device)?;
        (address >> 12 & 7 == 0).then_some((function.as_ref(), offset))
    }

    fn read_config(&self, address: u64, data: &mut [u8]) {
        if let Some((function, offset)) = self.find(address) {
            data.fill(0);
            function.read_config(offset, data);
        }
    }

    fn write_config(&self, address: u64, data: &[u8]) {
        if let Some((function, offset)) = self.find(address) {
            function.write_config(offset, data);
        }
    }
}

/// Configuration space as memory: that of bus 0.
pub struct Ecam(pub RootBus);

impl Ecam {
    /// Bytes for one bus.
    pub const LEN: u64 = 1 << BUS_SHIFT;

    /// Where the one function of a device is.
    #[must_use]
    pub fn function(device: u8) -> Range {
        Range { start: PCI_ECAM.start + (u64::from(device) << DEVICE_SHIFT), len: FUNCTION }
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.0.write_config(offset, data);
        Effect::None
    }
}

/// The window in which BARs of a space are; the guest may move them within it.
pub struct Window {
    bus: RootBus,
    space: Space,
    start: u64,
}

impl Window {
    /// The window that starts at a guest-physical address or a port.
    #[must_use]
    pub fn new(bus: RootBus, space: Space, start: u64) -> Self {
        Self { bus, space, start }
    }

    fn find(&self, offset: u64, len: usize) -> Option<(&dyn Function, u64)> {
        let address = self.start + offset;
        self.bus.functions.iter().find_map(|(_, function)| {
            let bar = function.bar(self.space)?;
            let at = address.checked_sub(bar.start)?;
            (at.checked_add(len as u64)? <= bar.len).then_some((function.as_ref(), at))
        })
    }
}

impl BusDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((function, at)) = self.find(offset, data.len()) {
            function.read_bar(self.space, at, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if let Some((function, at)) = self.find(offset, data.len()) {
            function.write_bar(self.space, at, data);
        }
        Effect::None
    }
}

/// Configuration space by two ports (PCI Local Bus 3.0, 3.2.2.3.2), for firmware that knows no ECAM. A direct boot has
/// none: where it is, Linux uses it, and every access takes two exits.
pub struct ConfigPorts {
    bus: RootBus,
    address: AtomicU32,
}

impl ConfigPorts {
    /// `CONFIG_ADDRESS` and `CONFIG_DATA`, four ports each.
    pub const LEN: u64 = 8;

    /// Ports to the functions of `bus`.
    #[must_use]
    pub fn new(bus: RootBus) -> Self {
        Self { bus, address: AtomicU32::new(0) }
    }

    /// The address in ECAM that `CONFIG_ADDRESS` and an offset in `CONFIG_DATA` come to, if the ports are enabled.
    fn ecam(&self, offset: u64) -> Option<u64> {
        let address = u64::from(self.address.load(Ordering::Relaxed));
        let (enabled, register) = (address >> 31 & 1 == 1, address & 0xfc);
        // Bus, device and function are four bits further up in ECAM.
        enabled.then_some((address & 0xff_ff00) << 4 | (register + offset))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset.checked_sub(4), <&mut [u8; 4]>::try_from(&mut *data)) {
            (Some(offset), _) => {
                if let Some(address) = self.ecam(offset) {
                    self.bus.read_config(address, data);
                }
            }
            (None, Ok(data)) if offset == 0 => *data = self.address.load(Ordering::Relaxed).to_le_bytes(),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match (offset.checked_sub(4), <[u8; 4]>::try_from(data)) {
            (Some(offset), _) => {
                if let Some(address) = self.ecam(offset) {
                    self.bus.write_config(address, data);
                }
            }
            (None, Ok(data)) if offset == 0 => {
                self.address.store(u32::from_le_bytes(data) & 0x80ff_fffc, Ordering::Relaxed);
            }
            _ => {}
        }
        Effect::None
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Self { bus: _, address } = self;
        Some(address.load(Ordering::Relaxed).to_le_bytes().to_vec())
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        let damaged = state::Error::Damaged { name: "PCI ports" };
        let bytes = saved.try_into().map_err(|_| damaged)?;
        self.address.store(u32::from_le_bytes(bytes) & 0x80ff_fffc, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
