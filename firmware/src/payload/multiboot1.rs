//! Multiboot 0.6.96: a header in the first 8 KiB of the file, which is an ELF file or says itself where it goes.

use abi::firmware::Protocol;
use abi::fw_cfg::key;
use abi::layout;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::elf::Elf;
use super::info::Info;
use super::{Boot, Source};
use crate::error;
use crate::handover::Entry;
use crate::machine::Machine;
use crate::memory_map::{FOUR_GIB, MemoryMap};
use crate::places::HEAD;

/// How far into the file the header may be, all of it.
const SEARCH: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// In EAX.
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// Header flags that a loader must know: modules on page boundaries, memory information. (Bit 2, a video mode, is known
/// as well, but there is none.)
const KNOWN: u32 = 1 << 0 | 1 << 1;
const REQUIRED: u32 = 0xffff;
/// Header flag: the addresses count, not the file's format.
const ADDRESSES: u32 = 1 << 16;
/// The name that payloads are told; command lines start with the name of a file, as this is the custom.
pub const LOADER_NAME: &[u8; 15] = b"jiffy-firmware\0";
/// What a command line starts with.
pub const IMAGE_NAME: &[u8; 7] = b"kernel ";

/// What is wrong with the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Flags that must be known, and are not.
    #[error(
        "the header's flags {flags:#x} require what there is not: known are page-aligned modules and memory"
    )]
    Required {
        /// The flags.
        flags: u32,
    },
    /// Addresses that make no sense, or leave the file.
    #[error("the header's addresses are not in order, or not in the file")]
    Addresses,
    /// What the VMM has prepared is no information structure.
    #[error("the VMM's information structure has {0} bytes, or its list of modules makes no sense")]
    Prepared(u32),
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its place in the file.
    pub offset: u32,
    /// What the kernel requires and has.
    pub flags: u32,
    /// Where the kernel goes, if it says so.
    pub addresses: Option<Addresses>,
}

/// Where a kernel goes that says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where the header goes.
    pub header: u32,
    /// Where the first byte goes that is loaded.
    pub load: u32,
    /// Where the bytes of the file end; 0: with the file.
    pub load_end: u32,
    /// Where zeros end; 0: there are none.
    pub bss_end: u32,
    /// Where the kernel starts.
    pub entry: u32,
}

impl Header {
    /// Looks for a header.
    #[must_use]
    pub fn find(head: &[u8]) -> Option<Self> {
        let search = &head[..head.len().min(SEARCH)];
        let words = search.as_chunks::<4>().0;
        let mut from = 0;
        while let Some(found) = words[from..].iter().position(|word| *word == MAGIC.to_le_bytes()) {
            let word = |i: usize| words.get(from + found + i).map(|it| u32::from_le_bytes(*it));
            if let Some(header) = Self::read((from + found) as u32 * 4, word) {
                return Some(header);
            }
            from += found + 1;
        }
        None
    }

    fn read(offset: u32, word: impl Fn(usize) -> Option<u32>) -> Option<Self> {
        let (flags, checksum) = (word(1)?, word(2)?);
        if MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let addresses = match flags & ADDRESSES {
            0 => None,
            _ => Some(Addresses {
                header: word(3)?,
                load: word(4)?,
                load_end: word(5)?,
                bss_end: word(6)?,
                entry: word(7)?,
            }),
        };
        Some(Self { offset, flags, addresses })
    }
}

/// What goes where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where in the file the bytes start.
    pub offset: u32,
    /// How many.
    pub file_len: u32,
    /// Bytes in memory.
    pub mem_len: u32,
}

impl Addresses {
    /// Checks the addresses against a file of `len` bytes that has its header at `offset`.
    pub fn plan(&self, offset: u32, len: u32) -> Result<Plan, Error> {
        let before = self.header.checked_sub(self.load);
        let start = before.and_then(|before| offset.checked_sub(before)).ok_or(Error::Addresses)?;
        let in_file = len.checked_sub(start).ok_or(Error::Addresses)?;
        let file_len = match self.load_end {
            0 => in_file,
            end => end.checked_sub(self.load).filter(|&len| len <= in_file).ok_or(Error::Addresses)?,
        };
        let end = self.load.checked_add(file_len).ok_or(Error::Addresses)?;
        let mem_end = match self.bss_end {
            0 => end,
            bss_end if bss_end >= end => bss_end,
            _ => return Err(Error::Addresses),
        };
        if !(self.load..mem_end).contains(&self.entry) {
            return Err(Error::Addresses);
        }
        Ok(Plan { offset: start, file_len, mem_len: mem_end - self.load })
    }

    /// Loads a kernel that says where it goes.
    pub fn load<M: Machine>(
        &self,
        boot: &mut Boot<M>,
        file: Source,
        plan: &Plan,
        to: u32,
    ) -> Result<(), error::Error> {
        let (start, end) = (u64::from(to), u64::from(to) + u64::from(plan.mem_len));
        if end > FOUR_GIB || !boot.map.take(start, end) {
            return Err(super::Error::Room { start }.into());
        }
        boot.fw_cfg.read(boot.machine, file.item, file.offset + plan.offset, start, plan.file_len)?;
        let zeros = start + u64::from(plan.file_len);
        boot.machine.map(zeros, end - zeros);
        boot.machine.clear(zeros, (end - zeros) as usize);
        Ok(())
    }
}

/// Loads a kernel.
#[inline(never)]
pub fn load<M: Machine>(boot: &mut Boot<M>, file: Source, header: &Header) -> Result<Entry, error::Error> {
    if header.flags & REQUIRED & !KNOWN != 0 {
        return Err(super::Error::from(Error::Required { flags: header.flags }).into());
    }
    boot.offer_bios()?;
    let (entry, kernel_end) = match &header.addresses {
        Some(addresses) => {
            let plan = addresses.plan(header.offset, file.len).map_err(super::Error::from)?;
            addresses.load(boot, file, &plan, addresses.load)?;
            (addresses.entry, u64::from(addresses.load) + u64::from(plan.mem_len))
        }
        None => {
            let head = boot.machine.bytes(HEAD.start, file.len.min(HEAD.len as u32) as usize);
            let elf = Elf::parse(head, file.len).map_err(super::Error::from)?;
            let entry = elf
                .physical_entry()
                .ok_or(super::Error::Elf(super::elf::Error::Entry { entry: elf.entry }))?;
            elf.load(boot, file, 0)?;
            (entry as u32, elf.extent().end())
        }
    };
    let mut info = Info::default();
    let at = info.take(size_of::<BootInfo>() as u64)?;
    let cmdline = cmdline(boot, &mut info)?;
    let modules = modules(boot, &mut info, kernel_end)?;
    let name = info.put(boot.machine, *LOADER_NAME)?;
    let mut boot_info = BootInfo {
        flags: flag::CMDLINE | flag::MODULES | flag::LOADER_NAME,
        cmdline: cmdline as u32,
        mods_count: modules.0,
        mods_addr: modules.1 as u32,
        boot_loader_name: name as u32,
        ..Default::default()
    };
    memory(boot, &mut info, &mut boot_info)?;
    boot.machine.write(at, boot_info);
    Ok(Entry::Protected { eip: entry, eax: LOADER_MAGIC, ebx: at as u32, esi: 0 })
}

/// A kernel that the VMM has put together (QEMU, `hw/i386/multiboot.c`): its bytes with modules and strings behind them
/// are one item, its information structure another.
#[inline(never)]
pub fn load_prepared<M: Machine>(
    boot: &mut Boot<M>,
    addr: u64,
    len: u32,
    info_len: u32,
) -> Result<Entry, error::Error> {
    if let Some(protocol) = boot.protocol.filter(|&asked| asked != Protocol::Multiboot1) {
        return Err(super::Error::NoEntry { protocol }.into());
    }
    boot.offer_bios()?;
    let end = addr + u64::from(len);
    if end > FOUR_GIB || !boot.map.take(addr, end) {
        return Err(super::Error::Room { start: addr }.into());
    }
    boot.fw_cfg.read(boot.machine, key::KERNEL_DATA, 0, addr, len)?;
    let prepared = Error::Prepared(info_len);
    if (info_len as usize) < PREPARED_MIN || info_len as usize > size_of::<BootInfo>() {
        return Err(super::Error::from(prepared).into());
    }
    let mut info = Info::default();
    let at = info.put(boot.machine, BootInfo::default())?;
    boot.fw_cfg.read(boot.machine, key::INITRD_DATA, 0, at, info_len)?;
    let mut boot_info: BootInfo = boot.machine.read(at);
    memory(boot, &mut info, &mut boot_info)?;
    boot.machine.write(at, boot_info);
    let entry = boot.fw_cfg.number(boot.machine, key::KERNEL_ENTRY)?;
    Ok(Entry::Protected { eip: entry, eax: LOADER_MAGIC, ebx: at as u32, esi: 0 })
}

/// Up to the memory map's address.
const PREPARED_MIN: usize = core::mem::offset_of!(BootInfo, drives_length);

/// [`BootInfo::flags`].
mod flag {
    pub const MEMORY: u32 = 1 << 0;
    pub const CMDLINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MEMORY_MAP: u32 = 1 << 6;
    pub const LOADER_NAME: u32 = 1 << 9;
}

/// The information structure, as far as it has anything without a video mode.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct BootInfo {
    flags: u32,
    mem_lower: u32,
    mem_upper: u32,
    boot_device: u32,
    cmdline: u32,
    mods_count: u32,
    mods_addr: u32,
    syms: [u32; 4],
    mmap_length: u32,
    mmap_addr: u32,
    drives_length: u32,
    drives_addr: u32,
    config_table: u32,
    boot_loader_name: u32,
    apm_table: u32,
    vbe: [u32; 4],
    framebuffer: [u32; 7],
}

const _: () = assert!(size_of::<BootInfo>() == 116);

/// An entry of the list of modules.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct ModuleEntry {
    start: u32,
    end: u32,
    string: u32,
    reserved: u32,
}

/// KiB from 0, and from 1 MiB, as far as there is memory in one piece.
pub fn memory_sizes(map: &MemoryMap) -> (u32, u32) {
    let end_of = |start: u64| {
        let area = map.areas().iter().find(|area| area.start <= start && start < area.end);
        area.map_or(start, |area| area.end)
    };
    let upper = end_of(layout::HIGH_RAM_START).min(FOUR_GIB) - layout::HIGH_RAM_START;
    ((end_of(0).min(layout::EBDA.start) >> 10) as u32, (upper >> 10) as u32)
}

fn memory<M: Machine>(
    boot: &mut Boot<M>,
    info: &mut Info,
    boot_info: &mut BootInfo,
) -> Result<(), error::Error> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C, packed)]
    struct Range {
        size: u32,
        addr: u64,
        len: u64,
        kind: u32,
    }
    const LEN: u32 = size_of::<Range>() as u32;
    (boot_info.mem_lower, boot_info.mem_upper) = memory_sizes(boot.map);
    let areas = boot.map.areas();
    boot_info.mmap_length = areas.len() as u32 * LEN;
    let at = info.take(boot_info.mmap_length.into())?;
    boot_info.mmap_addr = at as u32;
    boot_info.flags |= flag::MEMORY | flag::MEMORY_MAP;
    for (i, area) in areas.iter().enumerate() {
        let (addr, len, kind) = (area.start, area.end - area.start, area.kind.0.get());
        // The size does not count itself.
        let range = Range { size: LEN - 4, addr, len, kind };
        boot.machine.write(at + (i * size_of::<Range>()) as u64, range);
    }
    Ok(())
}

/// The command line, with a file's name before it.
#[inline(never)]
fn cmdline<M: Machine>(boot: &mut Boot<M>, info: &mut Info) -> Result<u64, error::Error> {
    let len = boot.cmdline.len + IMAGE_NAME.len() as u32;
    let at = info.take(u64::from(len) + 1)?;
    boot.machine.write(at, *IMAGE_NAME);
    boot.cmdline.read_text(&boot.fw_cfg, boot.machine, at + IMAGE_NAME.len() as u64)?;
    Ok(at)
}

/// Puts modules in place, above the kernel, and makes a list of them; its length and place.
#[inline(never)]
fn modules<M: Machine>(
    boot: &mut Boot<M>,
    info: &mut Info,
    kernel_end: u64,
) -> Result<(u32, u64), error::Error> {
    let list = info.take((boot.modules.len() * size_of::<ModuleEntry>()) as u64)?;
    for i in 0..boot.modules.len() {
        let module = boot.modules[i];
        let start = module.place_above(boot, kernel_end)? as u32;
        let string = info.string(boot.machine, module.string, module.string_len)? as u32;
        let entry = ModuleEntry { start, end: start + module.len, string, reserved: 0 };
        boot.machine.write(list + (i * size_of::<ModuleEntry>()) as u64, entry);
    }
    Ok((boot.modules.len() as u32, list))
}
