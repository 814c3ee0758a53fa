//! ACPI power management: the sleep and reset registers of reduced hardware (ACPI 6.5, 4.8.3.6 and 4.8.3.7), and
//! beside them, on a legacy machine, the PM1a block of full hardware (4.8.3.1 and 4.8.3.2).

use std::sync::atomic::{AtomicU16, Ordering};

use abi::ports;
use serde::{Deserialize, Serialize};

use crate::bus::{BusDevice, Effect};
use crate::state::{self, Saved};

const fn offset(port: u16) -> u64 {
    (port - ports::ACPI_SLEEP_CONTROL) as u64
}

const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = offset(ports::ACPI_RESET);
const PM1A_CONTROL: u64 = offset(ports::ACPI_PM1A_CONTROL);
const PM1A_ENABLE: u64 = offset(ports::ACPI_PM1A_EVENT) + 2;

/// The registers from [`ports::ACPI_SLEEP_CONTROL`] on.
#[derive(Debug)]
pub struct AcpiPm {
    pm1: bool,
    pm1_enable: AtomicU16,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AcpiPmState {
    pm1_enable: u16,
}

impl Saved for AcpiPmState {
    const NAME: &'static str = "ACPI registers";
    const VERSION: u16 = 1;
}

impl AcpiPm {
    /// How many ports it has.
    pub const LEN: u64 = PM1A_ENABLE + 2;

    /// The registers, with the PM1a block if `pm1`.
    #[must_use]
    pub fn new(pm1: bool) -> Self {
        Self { pm1, pm1_enable: AtomicU16::new(0) }
    }
}

impl BusDevice for AcpiPm {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // No status is ever set: the only sleep there is ends the machine, and no fixed event is raised.
        data.fill(0);
        let value = match offset {
            PM1A_CONTROL if self.pm1 => ports::ACPI_PM1_SCI_ENABLE,
            PM1A_ENABLE if self.pm1 => self.pm1_enable.load(Ordering::Relaxed),
            _ => return,
        };
        data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (SLEEP_CONTROL, &[value])
                if value & ports::ACPI_SLEEP_ENABLE != 0 && value >> 2 & 7 == ports::ACPI_S5 =>
            {
                Effect::PowerOff
            }
            (RESET, &[ports::ACPI_RESET_VALUE]) => Effect::Reset,
            (PM1A_CONTROL, &[low, high]) if self.pm1 => {
                let value = u16::from_le_bytes([low, high]);
                let s5 = value >> 10 & 7 == u16::from(ports::ACPI_S5);
                if s5 && value & ports::ACPI_PM1_SLEEP_ENABLE != 0 { Effect::PowerOff } else { Effect::None }
            }
            (PM1A_ENABLE, &[low, high]) if self.pm1 => {
                self.pm1_enable.store(u16::from_le_bytes([low, high]), Ordering::Relaxed);
                Effect::None
            }
            _ => Effect::None,
        }
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Self { pm1: _, pm1_enable } = self;
        Some(state::encode(&AcpiPmState { pm1_enable: pm1_enable.load(Ordering::Relaxed) }))
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        let AcpiPmState { pm1_enable } = state::decode(saved)?;
        self.pm1_enable.store(pm1_enable, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_switches_off() {
        let pm = AcpiPm::new(true);
        let off: Vec<u8> = (0..=255).filter(|&v| pm.write(SLEEP_CONTROL, &[v]) == Effect::PowerOff).collect();
        assert!(off.iter().all(|v| v & 0x3c == 0x34) && off.len() == 16, "{off:x?}");
        assert_eq!(pm.write(SLEEP_CONTROL, &[0x34, 0]), Effect::None);
        assert_eq!(pm.write(RESET, &[1]), Effect::Reset);
        assert_eq!(pm.write(RESET, &[0]), Effect::None);
        let sleep = |v: u16| pm.write(PM1A_CONTROL, &v.to_le_bytes());
        assert_eq!(
            [sleep(0x3400), sleep(0x1400), sleep(0x2000)],
            [Effect::PowerOff, Effect::None, Effect::None]
        );
        assert_eq!(AcpiPm::new(false).write(PM1A_CONTROL, &[0, 0x34]), Effect::None);
    }

    #[test]
    fn pm1_enable_is_kept_also_over_a_restore() {
        let pm = AcpiPm::new(true);
        pm.write(PM1A_ENABLE, &[0x21, 0x01]);
        let other = AcpiPm::new(true);
        other.restore(&pm.save().unwrap()).unwrap();
        let read = |at| {
            let mut data = [0xff; 2];
            other.read(at, &mut data);
            u16::from_le_bytes(data)
        };
        assert_eq!([read(PM1A_ENABLE), read(PM1A_CONTROL), read(PM1A_ENABLE - 2)], [0x121, 1, 0]);
    }
}
