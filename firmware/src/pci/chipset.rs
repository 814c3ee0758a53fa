//! The chipsets that a PC of QEMU's has.

use abi::layout;

use super::config::Function;
use crate::bios;
use crate::machine::Machine;

/// What is at 0:0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chipset {
    /// Nothing: there is no PCI, or none that ports reach.
    None,
    /// 82441FX, of `pc` (Intel 290549).
    I440fx,
    /// MCH of the Q35 chipset, of `q35` (Intel 316966).
    Q35,
}

const HOST_BRIDGE: Function = Function::new(0, 0, 0);
/// Vendor and device.
const I440FX: u32 = 0x1237_8086;
const Q35: u32 = 0x29c0_8086;
/// PAM0: bits 5:4 say what the F segment is.
const I440FX_PAM0: u8 = 0x59;
const Q35_PAM0: u8 = 0x90;
/// Reads and writes go to RAM.
const PAM_RAM: u8 = 0b11 << 4;

impl Chipset {
    /// Looks at the host bridge.
    pub fn detect(machine: &mut impl Machine) -> Self {
        match HOST_BRIDGE.port_read_u32(machine, 0) {
            I440FX => Self::I440fx,
            Q35 => Self::Q35,
            _ => Self::None,
        }
    }

    /// Makes the F segment RAM, where it is ROM. Elsewhere it is RAM with the ROM's copy.
    pub fn open_f_segment(self, machine: &mut impl Machine) {
        match self {
            Self::None => return,
            Self::I440fx => HOST_BRIDGE.port_write_u8(machine, I440FX_PAM0, PAM_RAM),
            Self::Q35 => HOST_BRIDGE.port_write_u8(machine, Q35_PAM0, PAM_RAM),
        }
        // With the code that real mode needs, as it is elsewhere.
        let code = bios::CODE;
        machine.copy(layout::ROM.end() - code.len, code.start, code.len as usize);
    }
}
