//! A plain ELF64 file, entered by our own contract ([`abi::unikernel`]).

use abi::layout::HIGH_RAM_START;
use abi::unikernel::{ALIGN, MAGIC};

use super::elf::{self, Elf};
use super::relocate::relocate;
use super::{Boot, Error, Source, pvh};
use crate::error;
use crate::handover::Entry;
use crate::machine::Machine;
use crate::memory_map::FOUR_GIB;
use crate::places::STACK;

/// Loads it.
#[inline(never)]
pub fn load<M: Machine>(boot: &mut Boot<M>, file: Source, elf: &Elf) -> Result<Entry, error::Error> {
    let identity = elf.segments.iter().all(|it| it.virt == it.addr);
    let extent = elf.extent();
    let fixed = elf.is_fixed_x86_64 && extent.start >= HIGH_RAM_START;
    if !identity || !fixed && !elf.is_movable_x86_64 {
        return Err(Error::Elf(elf::Error::Unikernel).into());
    }
    let entry = elf.physical_entry().ok_or(Error::Elf(elf::Error::Entry { entry: elf.entry }))?;
    let mut base = 0;
    if elf.is_movable_x86_64 {
        let floor = extent.start & !(ALIGN - 1);
        let start = boot.map.find_bottom(extent.end() - floor, ALIGN, HIGH_RAM_START, FOUR_GIB);
        base = start.ok_or(Error::Room { start: HIGH_RAM_START })?.wrapping_sub(floor);
    }
    elf.load(boot, file, base)?;
    if elf.is_movable_x86_64 {
        boot.machine.map(extent.start.wrapping_add(base), extent.len);
        relocate(boot.machine, elf, base).map_err(Error::Elf)?;
    }
    let start_info = pvh::start_info(boot, true)?;
    boot.machine.map(0, FOUR_GIB);
    // As after a call from nowhere.
    let rsp = STACK.end() - 8;
    boot.machine.write(rsp, 0u64);
    Ok(Entry::Long { rip: entry.wrapping_add(base), rdi: start_info, rsi: MAGIC, rsp })
}
