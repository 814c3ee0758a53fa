//! QEMU's `isa-debug-exit`: a byte by which a firmware, or what it boots, ends the machine and says why. A machine has
//! it only for a firmware.

use crate::bus::{BusDevice, Effect};

/// Its one port.
#[derive(Debug)]
pub struct DebugExit;

impl BusDevice for DebugExit {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, _offset: u64, data: &[u8]) -> Effect {
        data.first().map_or(Effect::None, |&code| Effect::DebugExit(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_code() {
        assert_eq!(DebugExit.write(0, &[0x16]), Effect::DebugExit(0x16));
        let mut data = [0xff];
        DebugExit.read(0, &mut data);
        assert_eq!(data, [0xff]);
    }
}
