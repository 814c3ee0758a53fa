//! The end of the machine.

use abi::{announce, ports};

use crate::ports::Ports;

/// Code for the debug-exit port: there was nothing to boot. QEMU's exit status is twice that plus one, 33.
pub const NOTHING_TO_BOOT: u8 = 0x10;
/// Code for the debug-exit port: the firmware panicked. QEMU's exit status is 35.
pub const PANICKED: u8 = 0x11;

/// The machines that the firmware tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// It announces itself as one of ours.
    Jiffy,
    /// Any other.
    Other,
}

impl Machine {
    /// The machine that this code runs on.
    #[must_use]
    pub fn detect() -> Self {
        let leaf = core::arch::x86_64::__cpuid(announce::LEAF);
        if announce::is_jiffy([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]) { Self::Jiffy } else { Self::Other }
    }
}

/// Switches the machine off. Comes back where that takes some time, or where nothing answers.
///
/// `code` reaches the outside only through QEMU's `isa-debug-exit`.
pub fn off(ports: &mut impl Ports, machine: Machine, code: u8) {
    match machine {
        Machine::Jiffy => {
            ports.write_u8(ports::ACPI_SLEEP_CONTROL, ports::ACPI_S5 << 2 | ports::ACPI_SLEEP_ENABLE);
            // A machine with full ACPI hardware has this one instead.
            let sleep = u16::from(ports::ACPI_S5) << 10 | ports::ACPI_PM1_SLEEP_ENABLE;
            ports.write_u16(ports::ACPI_PM1A_CONTROL, sleep);
        }
        Machine::Other => ports.write_u8(ports::DEBUG_EXIT, code),
    }
}
