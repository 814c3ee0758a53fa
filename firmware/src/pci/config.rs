//! Configuration space: by ports (PCI Local Bus 3.0, 3.2.2.3.2), or in memory (PCI Express 4.0, 7.2.2).

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

    /// From 0 on for all devices of a bus and their functions.
    #[must_use]
    pub const fn of_index(bus: u8, index: u8) -> Self {
        Self((bus as u16) << 8 | index as u16)
    }

    /// Inverse of [`Self::of_index`].
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0 as u8
    }

    /// Its device on its bus.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }
}

/// How configuration space is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By ports: two accesses each.
    Ports,
    /// In memory from this address on, which is mapped for the buses in question.
    Memory(u64),
}

macro_rules! register {
    ($read:ident, $write:ident, $type:ty, $mmio_read:ident, $mmio_write:ident, $in:ident, $out:ident) => {
        /// Reads a register.
        #[inline(never)]
        pub fn $read(self, machine: &mut impl Machine, function: Function, register: u8) -> $type {
            match self {
                Self::Memory(base) => machine.$mmio_read(at(base, function, register)),
                Self::Ports => {
                    let port = select(machine, function, register);
                    machine.$in(port)
                }
            }
        }

        /// Writes a register.
        #[inline(never)]
        pub fn $write(self, machine: &mut impl Machine, function: Function, register: u8, value: $type) {
            match self {
                Self::Memory(base) => machine.$mmio_write(at(base, function, register), value),
                Self::Ports => {
                    let port = select(machine, function, register);
                    machine.$out(port, value);
                }
            }
        }
    };
}

impl Access {
    register!(read_u8, write_u8, u8, mmio_read_u8, mmio_write_u8, in_u8, out_u8);
    register!(read_u16, write_u16, u16, mmio_read_u16, mmio_write_u16, in_u16, out_u16);
    register!(read_u32, write_u32, u32, mmio_read_u32, mmio_write_u32, in_u32, out_u32);
}

const fn at(base: u64, function: Function, register: u8) -> u64 {
    base + ((function.0 as u64) << 12) + register as u64
}

/// Chooses a register; the port that has it.
fn select(machine: &mut impl Machine, function: Function, register: u8) -> u16 {
    machine.out_u32(ADDRESS, ENABLE | u32::from(function.0) << 8 | u32::from(register & !3));
    DATA + u16::from(register & 3)
}
