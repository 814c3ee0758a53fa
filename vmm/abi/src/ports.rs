//! I/O ports.

/// First serial port, a 16550A.
pub const COM1: u16 = 0x3f8;
/// Interrupt line of [`COM1`].
pub const COM1_IRQ: u32 = 4;
/// Keyboard controller: data at 0x60, status and command here; command 0xfe resets.
pub const I8042_COMMAND: u16 = 0x64;
/// CMOS index; data is the next port.
pub const CMOS_INDEX: u16 = 0x70;
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
/// First of the ports that are Jiffy's own; see [`crate::announce`].
pub const JIFFY: u16 = 0x700;
/// How many ports from [`JIFFY`] on are Jiffy's own.
pub const JIFFY_LEN: u16 = 8;
/// Write a byte: a [`crate::timeline::Mark`]. Read four bytes: microseconds since the timeline's
/// origin, modulo 2^32.
pub const TIMELINE: u16 = JIFFY;
/// Write a byte: the exit status of the guest's workload. The last one written counts.
pub const EXIT_STATUS: u16 = JIFFY + 4;
