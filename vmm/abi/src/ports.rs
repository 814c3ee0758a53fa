//! I/O ports.

/// First serial port, a 16550A.
pub const COM1: u16 = 0x3f8;
/// Interrupt line of [`COM1`].
pub const COM1_IRQ: u32 = 4;
/// Keyboard controller: data at 0x60, status and command here; command 0xfe resets.
pub const I8042_COMMAND: u16 = 0x64;
/// CMOS index; data is the next port.
pub const CMOS_INDEX: u16 = 0x70;
/// PCI `CONFIG_ADDRESS`; `CONFIG_DATA` is four ports on. Only where a firmware starts the machine.
pub const PCI_CONFIG: u16 = 0xcf8;
/// QEMU's `pvpanic` device.
pub const PVPANIC: u16 = 0x505;
/// QEMU's firmware configuration device.
pub const FW_CFG: u16 = 0x510;
/// QEMU's `isa-debug-exit` by its customary address.
pub const DEBUG_EXIT: u16 = 0xf4;
/// ACPI sleep control register (ACPI 6.5, 4.8.3.7); sleep status is the next port.
pub const ACPI_SLEEP_CONTROL: u16 = 0x600;
/// ACPI reset register (ACPI 6.5, 4.8.3.6).
pub const ACPI_RESET: u16 = 0x602;
/// The byte that resets when written to [`ACPI_RESET`].
pub const ACPI_RESET_VALUE: u8 = 0x01;
/// Of a machine with full ACPI hardware: PM1a status (write one to clear), then, two bytes on, PM1a enable
/// (ACPI 6.5, 4.8.3.1).
pub const ACPI_PM1A_EVENT: u16 = 0x608;
/// Of a machine with full ACPI hardware: PM1a control, two bytes (ACPI 6.5, 4.8.3.2).
pub const ACPI_PM1A_CONTROL: u16 = 0x604;
/// Interrupt line of full ACPI hardware (SCI), level-triggered and active-high.
pub const ACPI_SCI_IRQ: u32 = 9;
/// What `SLP_TYP` is for S5 (power off), in the sleep control register (bits 4:2) and in PM1a control
/// (bits 12:10).
pub const ACPI_S5: u8 = 5;
/// `SLP_EN` in the sleep control register.
pub const ACPI_SLEEP_ENABLE: u8 = 1 << 5;
/// `SLP_EN` in PM1a control.
pub const ACPI_PM1_SLEEP_ENABLE: u16 = 1 << 13;
/// `SCI_EN` in PM1a control: always set, since there is no other mode.
pub const ACPI_PM1_SCI_ENABLE: u16 = 1 << 0;
/// First of the ports that are Jiffy's own; see [`crate::announce`].
pub const JIFFY: u16 = 0x700;
/// How many ports from [`JIFFY`] on are Jiffy's own.
pub const JIFFY_LEN: u16 = 8;
/// Write a byte: a [`crate::timeline::Mark`]. Read four bytes: microseconds since the timeline's
/// origin, modulo 2^32.
pub const TIMELINE: u16 = JIFFY;
/// Write a byte: the exit status of the guest's workload. The last one written counts.
pub const EXIT_STATUS: u16 = JIFFY + 4;
