//! The chipsets of QEMU's PCs, as far as their tables expect them to be set up.

use abi::layout::{self, Range};

use super::config::{Access, Function};
use crate::bios;
use crate::machine::Machine;

/// What is at 0:0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chipset {
    /// Nothing: there is no PCI, or none that ports reach.
    None,
    /// 82441FX and PIIX3 (Intel 290549, 290550), with the power management of PIIX4 (Intel 290562).
    I440fx,
    /// Q35 and ICH9 (Intel 316966, 316972).
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
/// PCIEXBAR: where configuration space is in memory; bit 0 switches it on, for 256 buses.
const PCIEXBAR: u8 = 0x60;
const PCIEXBAR_ENABLE: u32 = 1 << 0;
/// Where it is put: below it ends RAM of any machine with Q35.
const ECAM: Range = Range::new(0xb000_0000, 0xc000_0000);

/// Ports of power management, with the bit that says that this is a port.
const PM_BASE: u32 = 0x600 | 1;
/// Interrupt lines of PIRQ A to D, and of E to H.
pub const LINES: [u8; 4] = [10, 10, 11, 11];
/// Edge/level control of lines 8 to 15 (PIIX3, 2.2.5).
const ELCR2: u16 = 0x4d1;

const PIIX3: Function = Function::new(0, 1, 0);
const PIIX3_IDE: Function = Function::new(0, 1, 1);
const PIIX4_PM: Function = Function::new(0, 1, 3);
const PIIX_PIRQ: u8 = 0x60;
/// IDETIM of both channels: bit 15 of each decodes its ports.
const PIIX_IDETIM: u8 = 0x40;
const PIIX_PM_BASE: u8 = 0x40;
/// PMREGMISC: bit 0 decodes the ports of power management.
const PIIX_PMREGMISC: u8 = 0x80;

const LPC: Function = Function::new(0, 31, 0);
const LPC_PM_BASE: u8 = 0x40;
/// Bit 7 decodes the ports of power management; the SCI is line 9.
const LPC_ACPI_CNTL: u8 = 0x44;
const LPC_PIRQ_A: u8 = 0x60;
const LPC_PIRQ_E: u8 = 0x68;
/// Root complex registers, whose interrupt routing Linux reads.
const LPC_RCBA: u8 = 0xf0;
const RCBA: u32 = 0xfed1_c000 | 1;

impl Chipset {
    /// Looks at the host bridge.
    pub fn detect(machine: &mut impl Machine) -> Self {
        match Access::Ports.read_u32(machine, HOST_BRIDGE, 0) {
            I440FX => Self::I440fx,
            Q35 => Self::Q35,
            _ => Self::None,
        }
    }

    /// Makes the F segment RAM, where it is ROM. Elsewhere it is RAM with the ROM's copy.
    pub fn open_f_segment(self, machine: &mut impl Machine) {
        match self {
            Self::None => return,
            Self::I440fx => Access::Ports.write_u8(machine, HOST_BRIDGE, I440FX_PAM0, PAM_RAM),
            Self::Q35 => Access::Ports.write_u8(machine, HOST_BRIDGE, Q35_PAM0, PAM_RAM),
        }
        // With the code that real mode needs, as it is elsewhere.
        let code = bios::CODE;
        machine.copy(layout::ROM.end() - code.len, code.start, code.len as usize);
    }

    /// Where configuration space is in memory once [`Self::access`] was called.
    #[must_use]
    pub fn ecam(self) -> Option<Range> {
        (self == Self::Q35).then_some(ECAM)
    }

    /// The quickest way to configuration space.
    pub fn access(self, machine: &mut impl Machine) -> Access {
        if self != Self::Q35 {
            return Access::Ports;
        }
        Access::Ports.write_u32(machine, HOST_BRIDGE, PCIEXBAR, ECAM.start as u32 | PCIEXBAR_ENABLE);
        Access::Memory(ECAM.start)
    }

    /// Sets up what ACPI tables and drivers expect: power management, interrupt routing, IDE.
    pub fn set_up(self, machine: &mut impl Machine, access: Access) {
        let lines = u32::from_le_bytes(LINES);
        match self {
            Self::None => return,
            Self::I440fx => {
                access.write_u32(machine, PIIX3, PIIX_PIRQ, lines);
                access.write_u32(machine, PIIX3_IDE, PIIX_IDETIM, 0x8000_8000);
                access.write_u32(machine, PIIX4_PM, PIIX_PM_BASE, PM_BASE);
                access.write_u8(machine, PIIX4_PM, PIIX_PMREGMISC, 1);
            }
            Self::Q35 => {
                access.write_u32(machine, LPC, LPC_PIRQ_A, lines);
                access.write_u32(machine, LPC, LPC_PIRQ_E, lines);
                access.write_u32(machine, LPC, LPC_PM_BASE, PM_BASE);
                access.write_u8(machine, LPC, LPC_ACPI_CNTL, 1 << 7);
                access.write_u32(machine, LPC, LPC_RCBA, RCBA);
            }
        }
        // Lines that PCI devices share are level-triggered.
        machine.out_u8(ELCR2, LINES.iter().fold(0, |levels, line| levels | 1 << (line - 8)));
    }

    /// The line of a device on the root bus whose interrupt pin is `pin`, from 0 for A.
    #[must_use]
    pub fn line(self, device: u8, pin: u8) -> u8 {
        let pirq = match self {
            Self::I440fx => device.wrapping_sub(1).wrapping_add(pin),
            // Devices of the chipset itself have routing registers, which say A for A.
            Self::Q35 if device >= 25 => pin,
            _ => device.wrapping_add(pin),
        };
        LINES[usize::from(pirq & 3)]
    }
}
