//! Step 5: the BIOS data area, as old systems expect it.

use abi::{layout, ports};

use crate::machine::Machine;

/// Fields of the BIOS data area (IBM PC AT Technical Reference, "ROM BIOS Data Areas").
mod bda {
    /// Port of the first serial port.
    pub const COM1: u64 = 0x400;
    /// Segment of the EBDA.
    pub const EBDA_SEGMENT: u64 = 0x40e;
    /// Which devices there are, as INT 11h says.
    pub const EQUIPMENT: u64 = 0x410;
}

/// Where KiB of conventional memory are, as INT 12h says.
pub const MEMORY_SIZE: u64 = 0x413;
/// KiB of conventional memory.
pub const CONVENTIONAL_KIB: u16 = (layout::EBDA.start >> 10) as u16;
/// A coprocessor (bit 1), one serial port (bits 11:9), no display (bits 5:4 of an 80-column colour one would be 2).
pub const EQUIPMENT: u16 = 1 << 1 | 1 << 9;

/// Writes what is known of the machine.
pub fn write(machine: &mut impl Machine) {
    machine.write(bda::COM1, ports::COM1);
    machine.write(bda::EBDA_SEGMENT, (layout::EBDA.start >> 4) as u16);
    machine.write(bda::EQUIPMENT, EQUIPMENT);
    machine.write(MEMORY_SIZE, CONVENTIONAL_KIB);
    // Its size in KiB.
    machine.write(layout::EBDA.start, (layout::EBDA.len >> 10) as u8);
}
