//! As much of a keyboard controller as resets a PC.

use crate::bus::{BusDevice, Effect};

/// Pulses the processor's reset line (8042 command 0xf0 to 0xff, bit 0 low).
const PULSE_RESET: u8 = 0xfe;

/// The command port, 0x64. No data is ever waiting, and commands are taken at once.
#[derive(Debug)]
pub struct I8042;

impl BusDevice for I8042 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Effect {
        if data == [PULSE_RESET] { Effect::Reset } else { Effect::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_on_one_command_only() {
        for command in 0..=255 {
            let expected = if command == 0xfe { Effect::Reset } else { Effect::None };
            assert_eq!(I8042.write(0, &[command]), expected);
        }
    }
}
