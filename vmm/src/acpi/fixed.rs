//! The tables that are no AML: FADT, FACS, MADT.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::config::MachineKind;
use abi::{layout, ports};
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

/// `IAPC_BOOT_ARCH` (ACPI 6.5, table 5.10): there are devices on an ISA bus.
const LEGACY_DEVICES: u16 = 1 << 0;
/// `IAPC_BOOT_ARCH`: do not probe for VGA. Bit 1 (8042) and bit 5 (no CMOS RTC) stay clear.
const NO_VGA: u16 = 1 << 2;
/// A latency that says that C2 and C3 are not supported (ACPI 6.5, 5.2.9: above 100 and above 1000 µs).
const NO_C_STATE: u16 = 0xfff;

/// A register in I/O space.
fn port(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}

/// Full hardware where there is a FACS, else reduced.
pub(super) fn fadt(dsdt: u64, facs: Option<u64>) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        // These two say that there are no fixed-hardware buttons.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.reset_reg = port(ports::ACPI_RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = ports::ACPI_RESET_VALUE;
    // Also where PM1a is what counts: a kernel built for reduced hardware alone takes any machine for such.
    fadt.sleep_control_reg = port(ports::ACPI_SLEEP_CONTROL, 8, AccessSize::ByteAccess);
    fadt.sleep_status_reg = port(ports::ACPI_SLEEP_CONTROL + 1, 8, AccessSize::ByteAccess);
    match facs {
        None => reduced_hardware(&mut fadt),
        Some(facs) => {
            full_hardware(&mut fadt);
            fadt = fadt.firmware_ctrl_64(facs);
        }
    }
    fadt.finalize()
}

fn reduced_hardware(fadt: &mut FADTBuilder) {
    *fadt = fadt.flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = NO_VGA.into();
}

fn full_hardware(fadt: &mut FADTBuilder) {
    // FixRtc says that there is no RTC alarm among the fixed events.
    *fadt = fadt.flag(Flags::ProcC1).flag(Flags::FixRtc);
    fadt.iapc_boot_arch = (NO_VGA | LEGACY_DEVICES).into();
    fadt.sci_int = (ports::ACPI_SCI_IRQ as u16).into();
    fadt.pm1a_evt_blk = u32::from(ports::ACPI_PM1A_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(ports::ACPI_PM1A_EVENT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(ports::ACPI_PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(ports::ACPI_PM1A_CONTROL, 16, AccessSize::WordAccess);
    fadt.p_lvl2_lat = NO_C_STATE.into();
    fadt.p_lvl3_lat = NO_C_STATE.into();
}

pub(super) fn facs() -> FACS {
    FACS::new()
}

/// ACPI 6.5, 5.2.12. The in-kernel IOAPIC has GSI n on pin n, and so the ISA lines are where they are by
/// default; only the SCI of full hardware differs, in being level-triggered.
pub(super) fn madt(cpus: u8, machine: MachineKind) -> Sdt {
    const HEADER: u32 = 36;
    const REVISION: u8 = 5;
    /// `PCAT_COMPAT`: there are two 8259s as well.
    const DUAL_8259: u32 = 1;

    let legacy = machine == MachineKind::Legacy;
    let mut body = Vec::with_capacity(32 + 8 * usize::from(cpus));
    body.extend((layout::LAPIC.start as u32).to_le_bytes());
    body.extend((if legacy { DUAL_8259 } else { 0 }).to_le_bytes());
    for id in 0..cpus {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(0, layout::IOAPIC.start as u32, 0).to_aml_bytes(&mut body);
    if legacy {
        body.extend(source_override(ports::ACPI_SCI_IRQ as u8, LEVEL_ACTIVE_HIGH));
    }
    let mut madt = Sdt::new(*b"APIC", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append_slice(&body);
    madt
}

/// MPS INTI flags (ACPI 6.5, table 5.25): polarity 01 (active high), trigger mode 11 (level).
const LEVEL_ACTIVE_HIGH: u16 = 0b1101;

/// An interrupt source override (ACPI 6.5, 5.2.12.5) of an ISA line that stays on the GSI of its number.
fn source_override(irq: u8, flags: u16) -> [u8; 10] {
    const KIND: u8 = 2;
    const ISA: u8 = 0;
    let [gsi, flags] = [u32::from(irq), u32::from(flags)].map(u32::to_le_bytes);
    [KIND, 10, ISA, irq, gsi[0], gsi[1], gsi[2], gsi[3], flags[0], flags[1]]
}
