//! The end of the machine.

use abi::firmware::Code;
use abi::{announce, ports};

use crate::machine::Machine;

/// The VMMs that the firmware tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// It announces itself as ours.
    Jiffy,
    /// Any other.
    Other,
}

impl Vmm {
    /// The one that this code runs under.
    #[must_use]
    pub fn detect() -> Self {
        let leaf = core::arch::x86_64::__cpuid(announce::LEAF);
        if announce::is_jiffy([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]) { Self::Jiffy } else { Self::Other }
    }
}

/// Ends the machine and tells the host why. Comes back where that takes some time, or where nothing answers.
pub fn off(machine: &mut impl Machine, vmm: Vmm, code: Code) {
    machine.out_u8(ports::DEBUG_EXIT, code.0);
    if vmm == Vmm::Jiffy {
        machine.out_u8(ports::ACPI_SLEEP_CONTROL, ports::ACPI_S5 << 2 | ports::ACPI_SLEEP_ENABLE);
        // A machine with full ACPI hardware has this one instead.
        let sleep = u16::from(ports::ACPI_S5) << 10 | ports::ACPI_PM1_SLEEP_ENABLE;
        machine.out_u16(ports::ACPI_PM1A_CONTROL, sleep);
    }
}
