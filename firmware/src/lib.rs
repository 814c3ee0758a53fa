//! The ROM, as a library that also builds on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod ports;
pub mod power;
pub mod serial;

use core::fmt::{self, Write};

use abi::timeline::Mark;

use ports::Ports;
use power::Machine;
use serial::Serial;

/// What the ROM does.
pub fn main(ports: &mut impl Ports) {
    run(ports, Machine::detect());
}

fn run(ports: &mut impl Ports, machine: Machine) {
    if machine == Machine::Jiffy {
        ports.write_u8(abi::ports::TIMELINE, Mark::FIRMWARE_START.0);
    }
    say(ports, &format_args!("jiffy-firmware {}: long mode, nothing to boot yet", env!("CARGO_PKG_VERSION")));
    power::off(ports, machine, power::NOTHING_TO_BOOT);
}

/// Says where the ROM panicked, and ends the machine.
pub fn panicked(ports: &mut impl Ports, info: &dyn fmt::Display) {
    say(ports, &format_args!("jiffy-firmware: {info}"));
    power::off(ports, Machine::detect(), power::PANICKED);
}

fn say(ports: &mut impl Ports, line: &dyn fmt::Display) {
    // Writing to the port does not fail: without a UART the bytes go nowhere.
    let _ = write!(Serial::new(ports), "{line}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::fake::{Access, Fake};

    #[test]
    fn under_jiffy_it_marks_speaks_and_powers_off() {
        let mut fake = Fake::with_uart();
        run(&mut fake, Machine::Jiffy);
        assert_eq!(fake.log.first(), Some(&Access::U8(abi::ports::TIMELINE, 0x01)));
        assert_eq!(
            fake.serial_output(),
            std::format!("jiffy-firmware {}: long mode, nothing to boot yet\r\n", env!("CARGO_PKG_VERSION"))
        );
        assert!(
            fake.log.contains(&Access::U8(0x600, 0x34)),
            "sleep control: S5 (5) in bits 4:2, SLP_EN in bit 5"
        );
    }

    #[test]
    fn elsewhere_it_leaves_jiffys_ports_alone() {
        let mut fake = Fake::with_uart();
        run(&mut fake, Machine::Other);
        assert!(fake.serial_output().ends_with("nothing to boot yet\r\n"));
        let uart = abi::ports::COM1..abi::ports::COM1 + 8;
        let rest: std::vec::Vec<_> =
            fake.log.iter().filter(|access| !uart.contains(&access.port())).collect();
        assert_eq!(rest, [&Access::U8(0xf4, power::NOTHING_TO_BOOT)]);
    }

    #[test]
    fn a_panic_is_told_and_has_its_own_code() {
        let mut fake = Fake::with_uart();
        panicked(&mut fake, &"out of luck");
        assert_eq!(fake.serial_output(), "jiffy-firmware: out of luck\r\n");
        assert!(fake.log.contains(&Access::U8(0xf4, power::PANICKED)));
    }
}
