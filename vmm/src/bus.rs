//! Address ranges and who answers there. What a missed address does is decided here and nowhere else.

use std::sync::Arc;

use abi::layout::Range;

use crate::state;

/// What a write does beyond the device that took it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// The guest has switched the machine off.
    PowerOff,
    /// The guest wants the machine reset.
    Reset,
    /// The guest's kernel has panicked and said so.
    Panic,
    /// The guest has ended the machine with this code, by the debug-exit port.
    DebugExit(u8),
}

/// A device on a bus. Accesses come from vCPU threads; each device locks what it must, no more.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes at `offset` from the start of the device's range. `data` comes filled with ones:
    /// what a device does not know it leaves as it is.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes at `offset` from the start of the device's range.
    fn write(&self, offset: u64, data: &[u8]) -> Effect;

    /// What goes into a snapshot, encoded by [`crate::state`]; nothing for a device without state.
    fn save(&self) -> Option<Vec<u8>> {
        None
    }

    /// Takes back what [`BusDevice::save`] gave.
    fn restore(&self, _saved: &[u8]) -> Result<(), state::Error> {
        Ok(())
    }
}

/// A device whose range another device has already.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("bus: {0:#x}..{1:#x} overlaps a device that is there")]
pub struct Overlap(u64, u64);

/// An address space: ports or physical addresses.
#[derive(Clone, Default)]
pub struct Bus {
    /// In ascending order, without overlaps.
    devices: Vec<(Range, Arc<dyn BusDevice>)>,
}

impl Bus {
    /// Puts a device at a range of addresses.
    pub fn insert(&mut self, range: Range, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        let at = self.devices.partition_point(|(r, _)| r.start < range.start);
        let free = |other: Option<&(Range, _)>| other.is_none_or(|(r, _)| !r.overlaps(range));
        if !free(self.devices.get(at)) || !free(at.checked_sub(1).and_then(|i| self.devices.get(i))) {
            return Err(Overlap(range.start, range.end()));
        }
        self.devices.insert(at, (range, device));
        Ok(())
    }

    /// A read by the guest. Nobody there, or an access that runs over a device's end: all ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(addr, data.len()) {
            device.read(offset, data);
        }
    }

    /// A write by the guest. Nobody there: lost.
    pub fn write(&self, addr: u64, data: &[u8]) -> Effect {
        self.find(addr, data.len()).map_or(Effect::None, |(offset, device)| device.write(offset, data))
    }

    fn find(&self, addr: u64, len: usize) -> Option<(u64, &dyn BusDevice)> {
        let (range, device) =
            self.devices[..self.devices.partition_point(|(r, _)| r.start <= addr)].last()?;
        let offset = addr - range.start;
        (offset.checked_add(len as u64)? <= range.len).then_some((offset, device.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    /// A fake device: memory of its own, and a record of what was written.
    #[derive(Default)]
    struct Scratch(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Scratch {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&self, offset: u64, data: &[u8]) -> Effect {
            self.0.lock().unwrap().push((offset, data.to_vec()));
            Effect::Reset
        }
    }

    #[test]
    fn misses_read_ones_and_swallow_writes() {
        let mut bus = Bus::default();
        bus.insert(Range::new(0x10, 0x18), Arc::new(Scratch::default())).unwrap();
        let read = |addr, len| {
            let mut data = vec![0; len];
            bus.read(addr, &mut data);
            data
        };
        assert_eq!(read(0x0f, 1), [0xff]);
        assert_eq!(read(0x18, 4), [0xff; 4]);
        assert_eq!(read(0x17, 2), [0xff; 2], "runs over the end");
        assert_eq!(read(0x17, 1), [7]);
        assert_eq!(bus.write(0x18, &[1]), Effect::None);
        assert_eq!(bus.write(0x10, &[1]), Effect::Reset);
        assert_eq!(read(u64::MAX, 8), [0xff; 8]);
    }

    proptest! {
        #[test]
        fn inserts_never_overlap(ranges in prop::collection::vec((0u64..200, 1u64..20), 0..40), probe in 0u64..220) {
            let mut bus = Bus::default();
            let mut taken: Vec<Range> = Vec::new();
            for (start, len) in ranges {
                let range = Range { start, len };
                let fits = taken.iter().all(|r| !r.overlaps(range));
                prop_assert_eq!(bus.insert(range, Arc::new(Scratch::default())).is_ok(), fits);
                if fits {
                    taken.push(range);
                }
            }
            let mut data = [0];
            bus.read(probe, &mut data);
            let owner = taken.iter().find(|r| r.overlaps(Range { start: probe, len: 1 }));
            prop_assert_eq!(data[0], owner.map_or(0xff, |r| (probe - r.start) as u8));
        }
    }
}
