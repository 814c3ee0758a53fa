//! Step 1: the firmware configuration device ([`abi::fw_cfg`]).

use abi::bundle;
use abi::fw_cfg::{self, DmaAccess, File, dma, key};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, big_endian as be};

use crate::error::Error;
use crate::machine::Machine;
use crate::places::{BUNDLE, DIRECTORY, DMA};

/// Where numbers are read to.
const NUMBER: u64 = DMA.start + size_of::<DmaAccess>() as u64;
/// The most files that the directory may have, behind their number.
const FILES_MAX: u32 = ((DIRECTORY.len - 4) / size_of::<File>() as u64) as u32;
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
    /// Entries of the bundle; 0 where there is none.
    bundled: u32,
    /// Where the files of the directory stand, and how many.
    files: (u64, u32),
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

    /// Whether the file is the root of the ACPI tables.
    #[must_use]
    pub fn is_rsdp(&self) -> bool {
        matches!(zerocopy::transmute!(self.0), name::RSDP)
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
    pub const RSDP: Words = known("etc/acpi/rsdp");
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
        // That a transfer is done says that there is DMA, and tells more than the signature.
        let select = u32::from(bundle::KEY) << 16 | dma::SELECT;
        let dma = transfer(machine, select | dma::READ, BUNDLE.start, BUNDLE.len as u32).is_ok();
        let found = dma || {
            machine.out_u16(fw_cfg::SELECTOR, key::SIGNATURE);
            fw_cfg::SIGNATURE.iter().all(|&byte| machine.in_u8(fw_cfg::DATA) == byte)
        };
        if !found {
            return Err(Error::NoFwCfg);
        }
        let bundled = if dma { bundled(machine) } else { 0 };
        Ok(Self { dma, bundled, files: (0, 0) })
    }

    /// Whether this is Jiffy's own device, in a machine of Jiffy's.
    #[must_use]
    pub const fn is_jiffys(&self) -> bool {
        self.bundled > 0
    }

    /// Reads the directory, which stays in memory.
    #[inline(never)]
    pub fn directory(&mut self, machine: &mut impl Machine) -> Result<Files, Error> {
        const FILE: u32 = size_of::<File>() as u32;
        let first = match self.bundled(machine, key::FILE_DIR) {
            Some((_, len)) => len,
            None => 4 + FILES_FIRST * FILE,
        };
        let start = self.fetch(machine, key::FILE_DIR, 0, DIRECTORY.start, first)?;
        let count = machine.read::<be::U32>(start).get();
        if count > FILES_MAX {
            return Err(Error::Directory { count, max: FILES_MAX });
        }
        if let Some(more) = (4 + count * FILE).checked_sub(first).filter(|&more| more > 0) {
            self.read(machine, key::FILE_DIR, first, start + u64::from(first), more)?;
        }
        self.files = (start + 4, count);
        let mut files = Files::default();
        for i in 0..count {
            let addr = self.files.0 + u64::from(i * FILE);
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
        let (start, count) = self.files;
        (0..u64::from(count))
            .map(|i| start + i * size_of::<File>() as u64)
            .find(|&addr| machine.read::<Name>(addr + NAME_OFFSET) == *name)
            .map(|addr| item(machine, addr))
    }

    /// The first bytes of an item that the bundle has: where, and how many.
    fn bundled(&self, machine: &impl Machine, item: u16) -> Option<(u64, u32)> {
        let entries = BUNDLE.start + size_of::<bundle::Header>() as u64;
        (0..u64::from(self.bundled)).find_map(|i| {
            let entry = machine.read::<bundle::Entry>(entries + i * size_of::<bundle::Entry>() as u64);
            let found = (BUNDLE.start + u64::from(entry.offset.get()), entry.len.get().into());
            (entry.select.get() == item).then_some(found)
        })
    }

    /// The part of the bundle that has these bytes of an item, if one has all of them.
    #[inline(never)]
    fn find_bundled(&self, machine: &impl Machine, item: u16, offset: u32, len: u32) -> Option<u64> {
        let (start, there) = self.bundled(machine, item)?;
        let end = offset.checked_add(len).filter(|&end| end <= there)?;
        (start + u64::from(end) <= BUNDLE.end()).then_some(start + u64::from(offset))
    }

    /// Where bytes of an item are: in memory already, or at `to`, where they are read to.
    #[inline]
    pub fn fetch(
        &self,
        machine: &mut impl Machine,
        item: u16,
        offset: u32,
        to: u64,
        len: u32,
    ) -> Result<u64, Error> {
        if self.bundled > 0
            && let Some(at) = self.find_bundled(machine, item, offset, len)
        {
            return Ok(at);
        }
        self.transfer(machine, item, offset, to, len)?;
        Ok(to)
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
        if self.bundled > 0
            && let Some(at) = self.find_bundled(machine, item, offset, len)
        {
            machine.map(to, len.into());
            machine.copy(at, to, len as usize);
            return Ok(());
        }
        self.transfer(machine, item, offset, to, len)
    }

    #[inline(never)]
    fn transfer(
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
        let at = self.fetch(machine, item, 0, NUMBER, 4)?;
        Ok(machine.read(at))
    }

    /// A number of eight bytes.
    pub fn number_u64(&self, machine: &mut impl Machine, item: u16) -> Result<u64, Error> {
        let at = self.fetch(machine, item, 0, NUMBER, 8)?;
        Ok(machine.read(at))
    }
}

/// How many entries the bundle has, if one was read.
fn bundled(machine: &impl Machine) -> u32 {
    let header = machine.read::<bundle::Header>(BUNDLE.start);
    let count = header.count.get();
    if header.magic == bundle::MAGIC && count as usize <= bundle::COUNT_MAX { count } else { 0 }
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
