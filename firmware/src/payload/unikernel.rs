//! A plain ELF64 file, entered by our own contract ([`abi::unikernel`]).

use abi::unikernel::MAGIC;

use super::elf::{self, Elf};
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
    if !elf.is_fixed_x86_64 || !identity || elf.extent().start < abi::layout::HIGH_RAM_START {
        return Err(Error::Elf(elf::Error::Unikernel).into());
    }
    let entry = elf.physical_entry().ok_or(Error::Elf(elf::Error::Entry { entry: elf.entry }))?;
    elf.load(boot, file, 0)?;
    let start_info = pvh::start_info(boot, true)?;
    boot.machine.map(0, FOUR_GIB);
    // As after a call from nowhere.
    let rsp = STACK.end() - 8;
    boot.machine.write(rsp, 0u64);
    Ok(Entry::Long { rip: entry, rdi: start_info, rsi: MAGIC, rsp })
}
