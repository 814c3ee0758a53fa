//! QEMU's firmware configuration device (QEMU, `docs/specs/fw_cfg.rst`): selector, data port, and DMA. A machine has
//! it only for a firmware. Nothing of it can be written.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::fw_cfg::{DATA, DMA_ADDRESS_HIGH, DMA_ADDRESS_LOW, DMA_SIGNATURE, DmaAccess, SELECTOR, dma};
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;

use crate::boot::firmware::{Content, Contents};
use crate::bus::{BusDevice, Effect};
use crate::memory::Memory;
use crate::state::{self, Saved};

const DATA_OFFSET: u64 = (DATA - SELECTOR) as u64;
const HIGH_OFFSET: u64 = (DMA_ADDRESS_HIGH - SELECTOR) as u64;
const LOW_OFFSET: u64 = (DMA_ADDRESS_LOW - SELECTOR) as u64;

/// The ports from [`SELECTOR`] on.
#[derive(Debug)]
pub struct FwCfg {
    contents: Contents,
    memory: Memory,
    place: Mutex<Place>,
}

/// What a guest has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    selector: u16,
    /// In the selected item.
    offset: u64,
    /// High half of a transfer's address.
    high: u32,
}

impl Saved for Place {
    const NAME: &'static str = "fw_cfg";
    const VERSION: u16 = 1;
}

impl FwCfg {
    /// How many ports it has.
    pub const LEN: u64 = LOW_OFFSET + 4;

    /// A device with these items, which transfers to `memory`.
    #[must_use]
    pub fn new(contents: Contents, memory: Memory) -> Self {
        Self { contents, memory, place: Mutex::default() }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the transfer whose descriptor is at `at`. The guest sees how it went in the descriptor; where there is no
    /// memory for one, it sees nothing.
    fn transfer(&self, place: &mut Place, at: u64) {
        let mut bytes = [0; size_of::<DmaAccess>()];
        if self.memory.read(at, &mut bytes).is_err() {
            return;
        }
        let Ok(access) = DmaAccess::read_from_bytes(&bytes) else { return };
        let (control, len, address) = (access.control.get(), access.length.get(), access.address.get());
        if control & dma::SELECT != 0 {
            (place.selector, place.offset) = ((control >> 16) as u16, 0);
        }
        let done = if control & dma::READ != 0 {
            self.copy(*place, len.into(), address).is_ok()
        } else {
            control & dma::WRITE == 0
        };
        if control & (dma::READ | dma::SKIP) != 0 {
            place.offset = place.offset.saturating_add(len.into());
        }
        let status = if done { 0 } else { dma::ERROR };
        // It could be read, and memory does not go away.
        let _ = self.memory.write(at, status.to_be_bytes().as_slice());
    }

    /// Copies from the selected item to guest memory.
    fn copy(&self, place: Place, len: u64, address: u64) -> Result<(), crate::memory::Error> {
        let nothing = Content::default();
        let content = self.contents.get(place.selector).unwrap_or(&nothing);
        self.memory.fill(address, len, |slice| content.fill(place.offset, slice))
    }
}

fn read(content: Option<&Content>, offset: u64, to: &mut [u8]) -> io::Result<()> {
    match content {
        Some(content) => content.read(offset, to),
        None => {
            to.fill(0);
            Ok(())
        }
    }
}

impl BusDevice for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match offset {
            DATA_OFFSET if data.len() == 1 => {
                let mut place = self.place();
                // A file that can no longer be read is read as zeros: there is no way to say so.
                if read(self.contents.get(place.selector), place.offset, data).is_err() {
                    data.fill(0);
                }
                place.offset = place.offset.saturating_add(1);
            }
            HIGH_OFFSET.. => {
                let at = (offset - HIGH_OFFSET) as usize;
                data.iter_mut().zip(&DMA_SIGNATURE[at..]).for_each(|(to, from)| *to = *from);
            }
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut place = self.place();
        match (offset, data) {
            (0, &[low, high]) => {
                (place.selector, place.offset) = (u16::from_le_bytes([low, high]), 0);
            }
            (HIGH_OFFSET, &[a, b, c, d]) => place.high = u32::from_be_bytes([a, b, c, d]),
            (LOW_OFFSET, &[a, b, c, d]) => {
                let high = std::mem::take(&mut place.high);
                let low = u32::from_be_bytes([a, b, c, d]);
                self.transfer(&mut place, u64::from(high) << 32 | u64::from(low));
            }
            _ => {}
        }
        Effect::None
    }

    /// The items are not saved: they are made again from the configuration.
    fn save(&self) -> Option<Vec<u8>> {
        let Self { contents: _, memory: _, place: _ } = self;
        Some(state::encode(&*self.place()))
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        *self.place() = state::decode(saved)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HugePages, MemorySpec};
    use crate::memory::layout::RamLayout;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    const RAM: u64 = 2 << 20;

    fn device() -> (FwCfg, Memory) {
        let spec = MemorySpec { size: RAM, huge: HugePages::Default, prealloc: false, shared: false };
        let memory = Memory::new(&spec, &RamLayout::new(RAM)).unwrap();
        let mut contents = Contents::default();
        contents.set(0, b"QEMU".to_vec());
        contents.number(1, 3);
        contents.file("opt/file", (0..=255).collect::<Vec<u8>>()).unwrap();
        contents.list_files();
        (FwCfg::new(contents, memory.clone()), memory)
    }

    fn bytes<const N: usize>(device: &FwCfg) -> [u8; N] {
        std::array::from_fn(|_| {
            let mut byte = [0xff];
            device.read(DATA_OFFSET, &mut byte);
            byte[0]
        })
    }

    fn transfer(device: &FwCfg, memory: &Memory, control: u32, len: u32, address: u64) -> u32 {
        let access = DmaAccess { control: control.into(), length: len.into(), address: address.into() };
        memory.write(0x1000, access.as_bytes()).unwrap();
        device.write(LOW_OFFSET, &0x1000_u32.to_be_bytes());
        let mut status = [0; 4];
        memory.read(0x1000, &mut status).unwrap();
        u32::from_be_bytes(status)
    }

    #[test]
    fn reads_byte_by_byte_and_zeros_behind_the_end() {
        let (device, _) = device();
        assert_eq!(bytes(&device), *b"QEMU\0\0");
        device.write(0, &[1, 0]);
        assert_eq!(bytes(&device), [3, 0, 0, 0, 0]);
        device.write(0, &[0x34, 0x12]);
        assert_eq!(bytes(&device), [0, 0]);
        let mut signature = [0; 4];
        device.read(HIGH_OFFSET, &mut signature);
        assert_eq!(&signature, b"QEMU");
        device.read(LOW_OFFSET, &mut signature);
        assert_eq!(&signature, b" CFG");
    }

    #[test]
    fn transfers_select_skip_and_read() {
        let (device, memory) = device();
        let select = 0x20 << 16 | dma::SELECT;
        assert_eq!(transfer(&device, &memory, select | dma::SKIP, 250, 0), 0);
        assert_eq!(transfer(&device, &memory, dma::READ, 8, 0x2000), 0);
        let mut read = [0xff; 9];
        memory.read(0x2000, &mut read).unwrap();
        assert_eq!(read, [250, 251, 252, 253, 254, 255, 0, 0, 0]);
        assert_eq!(transfer(&device, &memory, select | dma::WRITE, 8, 0x2000), dma::ERROR);
        assert_eq!(transfer(&device, &memory, select | dma::READ, 8, RAM - 4), dma::ERROR);
        assert_eq!(transfer(&device, &memory, select | dma::READ, u32::MAX, 0), dma::ERROR);
    }

    #[test]
    fn state_comes_back() {
        let (device, _) = device();
        device.write(0, &[0x20, 0]);
        let _: [u8; 5] = bytes(&device);
        let (other, _) = self::device();
        other.restore(&device.save().unwrap()).unwrap();
        assert_eq!(bytes(&other), [5, 6]);
    }

    proptest! {
        #[test]
        fn no_guest_does_harm(writes in prop::collection::vec((0..FwCfg::LEN, prop::collection::vec(any::<u8>(), 1..5)), 0..40),
                              descriptor in any::<[u8; 16]>(), at in 0..RAM) {
            let (device, memory) = device();
            let _ = memory.write(at, &descriptor);
            device.write(LOW_OFFSET, &(at as u32).to_be_bytes());
            for (offset, data) in writes {
                device.write(offset, &data);
                device.read(offset, &mut data.clone());
            }
        }
    }
}
