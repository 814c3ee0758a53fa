//! The x86/HVM direct boot ABI (Xen, `docs/misc/pvh.pandoc`): an ELF kernel with a note that has its 32-bit entry.

use abi::firmware::Protocol;
use abi::pvh::{self, MemoryRange, PHYS32_ENTRY, StartInfo};

use super::elf::Elf;
use super::info::Info;
use super::{Boot, Error, Source};
use crate::error;
use crate::handover::Entry;
use crate::machine::Machine;
use crate::places::HEAD;

/// The most bytes of notes that are looked at.
const NOTES_MAX: u32 = 4096;

/// The kernel's PVH entry, if it has one.
#[inline(never)]
pub fn entry<M: Machine>(boot: &mut Boot<M>, file: Source, elf: &Elf) -> Result<Option<u32>, error::Error> {
    for note in &elf.notes {
        let len = note.file_len.min(NOTES_MAX);
        // The headers have been read: what was there is not needed any more.
        boot.fw_cfg.read(boot.machine, file.item, file.offset + note.offset, HEAD.start, len)?;
        let align = if note.align == 8 { 8 } else { 4 };
        if let Some(entry) = find(boot.machine.bytes(HEAD.start, len as usize), align) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// The entry, among notes (System V ABI, "Note Section") that are padded to multiples of `align`.
#[must_use]
pub fn find(mut notes: &[u8], align: usize) -> Option<u32> {
    while let Some(head) = notes.first_chunk::<12>() {
        let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let name_end = 12usize.checked_add(word(0) as usize)?;
        let desc_at = name_end.checked_next_multiple_of(align)?;
        let desc_end = desc_at.checked_add(word(4) as usize)?;
        let (name, desc) = (notes.get(12..name_end)?, notes.get(desc_at..desc_end)?);
        if word(8) == PHYS32_ENTRY && name == pvh::NOTE_NAME {
            return desc.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        }
        notes = notes.get(desc_end.checked_next_multiple_of(align)?..)?;
    }
    None
}

/// Loads a kernel.
#[inline(never)]
pub fn load<M: Machine>(
    boot: &mut Boot<M>,
    file: Source,
    elf: &Elf,
    entry: u32,
) -> Result<Entry, error::Error> {
    let inside = |at: u64| elf.segments.iter().any(|it| it.addr <= at && at < it.addr + it.mem_len);
    if !inside(entry.into()) {
        return Err(Error::Elf(super::elf::Error::Entry { entry: entry.into() }).into());
    }
    elf.load(boot, file, 0)?;
    enter(boot, entry)
}

/// Enters a kernel that the VMM has put into memory.
#[inline(never)]
pub fn load_prepared<M: Machine>(boot: &mut Boot<M>, addr: u64, len: u32) -> Result<Entry, error::Error> {
    if let Some(protocol) = boot.protocol.filter(|&asked| asked != Protocol::Pvh) {
        return Err(Error::NoEntry { protocol }.into());
    }
    let entry = boot.fw_cfg.number(boot.machine, abi::fw_cfg::key::KERNEL_ENTRY)?;
    if !boot.map.take(addr, addr + u64::from(len)) {
        return Err(Error::Room { start: addr }.into());
    }
    enter(boot, entry)
}

fn enter<M: Machine>(boot: &mut Boot<M>, entry: u32) -> Result<Entry, error::Error> {
    let start_info = start_info(boot, false)?;
    Ok(Entry::Protected { eip: entry, eax: 0, ebx: start_info as u32, esi: 0 })
}

/// Puts modules in place and tells all about them; returns where. With `low_reserved` the memory map calls the first
/// 1 MiB reserved.
#[inline(never)]
pub fn start_info<M: Machine>(boot: &mut Boot<M>, low_reserved: bool) -> Result<u64, error::Error> {
    let mut info = Info::default();
    let at = info.take(size_of::<StartInfo>() as u64)?;
    let cmdline_paddr = boot.load_cmdline(&mut info)?;
    let modlist_paddr = info.take((boot.modules.len() * size_of::<pvh::Module>()) as u64)?;
    for i in 0..boot.modules.len() {
        let module = boot.modules[i];
        let paddr = module.place(boot)?;
        let cmdline_paddr = match module.string_len {
            0 => 0,
            len => info.string(boot.machine, module.string, len)?,
        };
        let entry = pvh::Module { paddr, size: module.len.into(), cmdline_paddr, reserved: 0 };
        boot.machine.write(modlist_paddr + (i * size_of::<pvh::Module>()) as u64, entry);
    }
    if low_reserved {
        boot.map.set(0, abi::layout::HIGH_RAM_START, abi::e820::Kind::RESERVED).map_err(error::Error::Map)?;
    }
    let areas = boot.map.areas();
    let memmap_paddr = info.take((areas.len() * size_of::<MemoryRange>()) as u64)?;
    for (i, area) in areas.iter().enumerate() {
        let range = MemoryRange {
            addr: area.start,
            size: area.end - area.start,
            kind: area.kind.0.get(),
            reserved: 0,
        };
        boot.machine.write(memmap_paddr + (i * size_of::<MemoryRange>()) as u64, range);
    }
    let start_info = StartInfo {
        magic: pvh::MAGIC,
        version: pvh::VERSION,
        flags: 0,
        nr_modules: boot.modules.len() as u32,
        modlist_paddr: if boot.modules.is_empty() { 0 } else { modlist_paddr },
        cmdline_paddr,
        rsdp_paddr: boot.rsdp.unwrap_or(0),
        memmap_paddr,
        memmap_entries: areas.len() as u32,
        reserved: 0,
    };
    boot.machine.write(at, start_info);
    Ok(at)
}
