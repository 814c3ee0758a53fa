//! Configuration space, by ports (PCI Local Bus 3.0, 3.2.2.3.2).

use crate::machine::Machine;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// A function of a device on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function(u16);

impl Function {
    /// `bus:device.function`; `device` is below 32 and `function` below 8.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | ((device & 0x1f) as u16) << 3 | (function & 7) as u16)
    }

    fn select(self, machine: &mut impl Machine, register: u8) -> u16 {
        machine.out_u32(ADDRESS, ENABLE | u32::from(self.0) << 8 | u32::from(register & !3));
        DATA + u16::from(register & 3)
    }

    /// Reads a register by ports.
    pub fn port_read_u32(self, machine: &mut impl Machine, register: u8) -> u32 {
        let port = self.select(machine, register);
        machine.in_u32(port)
    }

    /// Writes a register by ports.
    pub fn port_write_u8(self, machine: &mut impl Machine, register: u8, value: u8) {
        let port = self.select(machine, register);
        machine.out_u8(port, value);
    }

    /// Writes a register by ports.
    pub fn port_write_u32(self, machine: &mut impl Machine, register: u8, value: u32) {
        let port = self.select(machine, register);
        machine.out_u32(port, value);
    }
}
