//! The machine around: a serial port, a clock, the way out.
#![allow(unsafe_code, reason = "port I/O")]

use core::fmt;

use abi::ports;
use x86_64::instructions::{hlt, port::Port};

/// Prints a line on the serial port.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::machine::line(format_args!($($arg)*))
    };
}

/// Prints a line on the serial port.
pub fn line(text: fmt::Arguments<'_>) {
    // Writing to the port does not fail.
    let _ = fmt::write(&mut Serial, text);
    let _ = fmt::Write::write_str(&mut Serial, "\n");
}

struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const TRANSMITTER_EMPTY: u8 = 1 << 5;
        for byte in text.bytes() {
            // SAFETY: reading the serial port's line status changes no memory.
            while unsafe { Port::<u8>::new(ports::COM1 + 5).read() } & TRANSMITTER_EMPTY == 0 {}
            // SAFETY: neither does sending a byte.
            unsafe { Port::new(ports::COM1).write(byte) };
        }
        Ok(())
    }
}

/// Ends the machine with this status: Jiffy's, or QEMU's with its debug-exit device.
pub fn end(status: u8) -> ! {
    let sleep = ports::ACPI_S5 << 2 | ports::ACPI_SLEEP_ENABLE;
    let pm1 = u16::from(ports::ACPI_S5) << 10 | ports::ACPI_PM1_SLEEP_ENABLE;
    // SAFETY: none of these ports changes memory; where one ends the machine, nothing follows.
    unsafe { Port::new(ports::EXIT_STATUS).write(status) };
    // SAFETY: as above.
    unsafe { Port::new(ports::ACPI_SLEEP_CONTROL).write(sleep) };
    // SAFETY: as above.
    unsafe { Port::new(ports::ACPI_PM1A_CONTROL).write(pm1) };
    // SAFETY: as above.
    unsafe { Port::new(ports::DEBUG_EXIT).write(status) };
    loop {
        hlt();
    }
}

/// Microseconds since some moment, as well as a TSC of unknown rate tells: within a factor of four of the truth where
/// that is from 0.5 to 4 GHz.
#[must_use]
pub fn micros() -> i64 {
    // SAFETY: every x86-64 processor has the instruction, and the firmware leaves it to be used.
    let ticks = unsafe { core::arch::x86_64::_rdtsc() };
    (ticks >> 10).cast_signed()
}
