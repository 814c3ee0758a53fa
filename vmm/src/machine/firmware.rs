//! A firmware in a machine: its ROM, and what fw_cfg says of the machine itself.

use abi::e820;
use abi::fw_cfg::{SIGNATURE, key};
use zerocopy::IntoBytes;

use super::rom::Rom;
use super::{Devices, Error};
use crate::acpi;
use crate::boot;
use crate::boot::firmware::Contents;
use crate::config::VmSpec;
use crate::memory::layout::RamLayout;
use crate::memory::{Memory, Slot};

/// The traditional interface, and DMA.
const FEATURES: u32 = 0b11;
/// A file: the memory map, RAM only; a firmware adds what it takes itself.
const E820: &str = "etc/e820";
/// Items that QEMU has and `abi` does not name, for other firmwares: size of RAM, and the most CPUs there can be.
const RAM_SIZE: u16 = 0x03;
const MAX_CPUS: u16 = 0x0f;

/// A firmware, mapped, and what it is told of its payload.
#[derive(Debug)]
pub struct Firmware {
    rom: Rom,
    contents: Contents,
}

impl Firmware {
    /// Reads the ROM.
    pub(super) fn load(boot: boot::Firmware, memory: &Memory) -> Result<Self, Error> {
        Ok(Self { rom: Rom::new(&boot.rom, memory)?, contents: boot.contents })
    }

    /// Where the ROM is.
    pub(super) fn slot(&self) -> Slot {
        self.rom.slot()
    }

    /// The ROM, and all that fw_cfg has.
    pub(super) fn describe(self, spec: &VmSpec, devices: &Devices) -> Result<(Rom, Contents), Error> {
        let Self { rom, mut contents } = self;
        let tables = acpi::link(&acpi::Spec {
            cpus: spec.cpus,
            machine: spec.machine,
            pci: devices.has_pci(),
            devices: &devices.aml(),
        });
        let mut map = Vec::new();
        for range in RamLayout::new(spec.memory.size).regions() {
            let (addr, size, kind) = (range.start.into(), range.len.into(), e820::Kind::RAM);
            map.extend_from_slice(e820::Entry { addr, size, kind }.as_bytes());
        }
        for (name, bytes) in std::iter::once((E820, map)).chain(tables.files()) {
            contents.file(name, bytes).map_err(|problem| Error::FirmwareFile { name, problem })?;
        }
        contents.set(key::SIGNATURE, SIGNATURE.to_vec());
        contents.number(key::ID, FEATURES);
        contents.set(RAM_SIZE, spec.memory.size.to_le_bytes().to_vec());
        for selector in [key::NB_CPUS, MAX_CPUS] {
            contents.set(selector, u16::from(spec.cpus).to_le_bytes().to_vec());
        }
        contents.list_files();
        contents.bundle()?;
        Ok((rom, contents))
    }
}
