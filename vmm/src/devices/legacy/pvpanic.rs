//! QEMU's `pvpanic` (QEMU `docs/specs/pvpanic.rst`): a guest's kernel says that it has panicked.

use crate::bus::{BusDevice, Effect};

/// The guest has panicked, and the host is to deal with it.
const PANICKED: u8 = 1 << 0;

/// One port, by default 0x505.
#[derive(Debug)]
pub struct Pvpanic;

impl BusDevice for Pvpanic {
    /// The events that are taken.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(PANICKED);
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Effect {
        match data {
            [events] if events & PANICKED != 0 => Effect::Panic,
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_it_offers() {
        let mut offered = [0];
        Pvpanic.read(0, &mut offered);
        assert_eq!(Pvpanic.write(0, &offered), Effect::Panic);
        assert_eq!(Pvpanic.write(0, &[2]), Effect::None, "a crash kernel takes over: the guest goes on");
    }
}
