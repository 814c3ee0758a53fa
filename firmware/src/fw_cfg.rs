//! Step 1: the firmware configuration device ([`abi::fw_cfg`]).

use abi::fw_cfg::{self, DmaAccess, File, dma, key};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, big_endian as be};

use crate::error::Error;
use crate::machine::Machine;
use crate::places::{DIRECTORY, DMA};

/// Where numbers are read to.
const NUMBER: u64 = DMA.start + size_of::<DmaAccess>() as u64;
/// Where the files of the directory stand: behind their number.
const FILES: u64 = DIRECTORY.start + 4;
/// The most files that the directory may have.
const FILES_MAX: u32 = ((DIRECTORY.end() - FILES) / size_of::<File>() as u64) as u32;
/// How many files are read at first; QEMU has 10 on microvm, 20 on q35.
const FILES_FIRST: u32 = 48;

/// An item with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its selector.
    pub select: u16,
    /// Its bytes.
    pub size: u32,
}

/// The files that the firmware knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// RAM.
    pub e820: Option<Item>,
    /// Script that puts ACPI tables in place.
    pub table_loader: Option<Item>,
    /// Device tree, on machines that have no other way to say where PCI is.
    pub fdt: Option<Item>,
    /// Where the RAM ends that may be added while the machine runs.
    pub reserved_memory_end: Option<Item>,
    /// SMBIOS entry point.
    pub smbios_anchor: Option<Item>,
    /// SMBIOS structures.
    pub smbios_tables: Option<Item>,
    /// [`abi::firmware::KERNEL`].
    pub kernel: Option<Item>,
    /// [`abi::firmware::CMDLINE`].
    pub cmdline: Option<Item>,
    /// [`abi::firmware::MODULES`].
    pub modules: Option<Item>,
    /// [`abi::firmware::PROTOCOL`].
    pub protocol: Option<Item>,
}

/// The device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FwCfg {
    dma: bool,
    files: u32,
}

/// A file's name, in words, which are quicker to compare than bytes.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Name([[u8; 8]; (fw_cfg::NAME_MAX + 1) / 8]);

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        // Names start alike, and most differ in the second word.
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(ours, theirs)| u64::from_le_bytes(*ours) == u64::from_le_bytes(*theirs))
    }
}

impl Name {
    /// From text of at most [`fw_cfg::NAME_MAX`] bytes.
    #[must_use]
    pub const fn new(text: &str) -> Self {
        Self(zerocopy::transmute!(fw_cfg::name(text)))
    }
}

/// A name that patterns can have.
type Words = [u64; (fw_cfg::NAME_MAX + 1) / 8];

const fn known(name: &str) -> Words {
    zerocopy::transmute!(fw_cfg::name(name))
}

/// Names of [`Files`].
mod name {
    use super::{Words, known};

    pub const E820: Words = known("etc/e820");
    pub const TABLE_LOADER: Words = known("etc/table-loader");
    pub const FDT: Words = known("etc/fdt");
    pub const RESERVED_MEMORY_END: Words = known("etc/reserved-memory-end");
    pub const SMBIOS_ANCHOR: Words = known("etc/smbios/smbios-anchor");
    pub const SMBIOS_TABLES: Words = known("etc/smbios/smbios-tables");
    pub const KERNEL: Words = known(abi::firmware::KERNEL);
    pub const CMDLINE: Words = known(abi::firmware::CMDLINE);
    pub const MODULES: Words = known(abi::firmware::MODULES);
    pub const PROTOCOL: Words = known(abi::firmware::PROTOCOL);
}

impl FwCfg {
    /// Looks for the device.
    pub fn detect(machine: &mut impl Machine) -> Result<Self, Error> {
        let [s0, s1, s2, s3, ..] = fw_cfg::DMA_SIGNATURE;
        let dma = machine.in_u32(fw_cfg::DMA_ADDRESS_HIGH) == u32::from_le_bytes([s0, s1, s2, s3]);
        let found = dma || {
            machine.out_u16(fw_cfg::SELECTOR, key::SIGNATURE);
            fw_cfg::SIGNATURE.iter().all(|&byte| machine.in_u8(fw_cfg::DATA) == byte)
        };
        if found { Ok(Self { dma, files: 0 }) } else { Err(Error::NoFwCfg) }
    }

    /// Reads the directory, which stays in memory.
    #[inline(never)]
    pub fn directory(&mut self, machine: &mut impl Machine) -> Result<Files, Error> {
        const FILE: u32 = size_of::<File>() as u32;
        self.read(machine, key::FILE_DIR, 0, DIRECTORY.start, 4 + FILES_FIRST * FILE)?;
        let count = machine.read::<be::U32>(DIRECTORY.start).get();
        if count > FILES_MAX {
            return Err(Error::Directory { count, max: FILES_MAX });
        }
        if count > FILES_FIRST {
            let (from, more) = (FILES_FIRST * FILE, count - FILES_FIRST);
            self.read(machine, key::FILE_DIR, 4 + from, FILES + u64::from(from), more * FILE)?;
        }
        self.files = count;
        let mut files = Files::default();
        for i in 0..count {
            let addr = FILES + u64::from(i * FILE);
            let place = match machine.read::<Words>(addr + NAME_OFFSET) {
                name::E820 => &mut files.e820,
                name::TABLE_LOADER => &mut files.table_loader,
                name::FDT => &mut files.fdt,
                name::RESERVED_MEMORY_END => &mut files.reserved_memory_end,
                name::SMBIOS_ANCHOR => &mut files.smbios_anchor,
                name::SMBIOS_TABLES => &mut files.smbios_tables,
                name::KERNEL => &mut files.kernel,
                name::CMDLINE => &mut files.cmdline,
                name::MODULES => &mut files.modules,
                name::PROTOCOL => &mut files.protocol,
                _ => continue,
            };
            *place = Some(item(machine, addr));
        }
        Ok(files)
    }

    /// A file of the directory that was read.
    pub fn find(&self, machine: &impl Machine, name: &Name) -> Option<Item> {
        (0..u64::from(self.files))
            .map(|i| FILES + i * size_of::<File>() as u64)
            .find(|&addr| machine.read::<Name>(addr + NAME_OFFSET) == *name)
            .map(|addr| item(machine, addr))
    }

    /// Reads from an item into memory, wherever that is.
    pub fn read(
        &self,
        machine: &mut impl Machine,
        item: u16,
        offset: u32,
        to: u64,
        len: u32,
    ) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        if !self.dma {
            machine.out_u16(fw_cfg::SELECTOR, item);
            (0..offset).for_each(|_| _ = machine.in_u8(fw_cfg::DATA));
            machine.map(to, len.into());
            machine.in_bytes(fw_cfg::DATA, to, len as usize);
            return Ok(());
        }
        let mut select = u32::from(item) << 16 | dma::SELECT;
        if offset > 0 {
            transfer(machine, select | dma::SKIP, to, offset)?;
            select = 0;
        }
        transfer(machine, select | dma::READ, to, len)
    }

    /// Writes to an item from memory.
    pub fn write(
        &self,
        machine: &mut impl Machine,
        item: u16,
        offset: u32,
        from: u64,
        len: u32,
    ) -> Result<(), Error> {
        if !self.dma {
            return Err(Error::Dma { item, len });
        }
        let select = u32::from(item) << 16 | dma::SELECT;
        transfer(machine, select | dma::SKIP, from, offset)?;
        transfer(machine, dma::WRITE, from, len)
    }

    /// A number of an item without a name.
    pub fn number(&self, machine: &mut impl Machine, item: u16) -> Result<u32, Error> {
        self.read(machine, item, 0, NUMBER, 4)?;
        Ok(machine.read(NUMBER))
    }

    /// A number of eight bytes.
    pub fn number_u64(&self, machine: &mut impl Machine, item: u16) -> Result<u64, Error> {
        self.read(machine, item, 0, NUMBER, 8)?;
        Ok(machine.read(NUMBER))
    }
}

const NAME_OFFSET: u64 = core::mem::offset_of!(File, name) as u64;

fn item(machine: &impl Machine, addr: u64) -> Item {
    #[derive(FromBytes)]
    #[repr(C)]
    struct Start {
        size: be::U32,
        select: be::U16,
    }
    let start = machine.read::<Start>(addr);
    Item { select: start.select.get(), size: start.size.get() }
}

/// One transfer. The device does it before the write to its port ends.
fn transfer(machine: &mut impl Machine, control: u32, address: u64, length: u32) -> Result<(), Error> {
    let access = DmaAccess { control: control.into(), length: length.into(), address: address.into() };
    machine.write(DMA.start, access);
    machine.out_u32(fw_cfg::DMA_ADDRESS_LOW, (DMA.start as u32).to_be());
    match machine.read::<u32>(DMA.start) {
        0 => Ok(()),
        _ => Err(Error::Dma { item: (control >> 16) as u16, len: length }),
    }
}
