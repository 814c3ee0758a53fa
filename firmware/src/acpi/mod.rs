//! Step 4: ACPI tables, which the VMM made and a script puts in place (QEMU, `hw/acpi/bios-linker-loader.c`).
//!
//! The script is a list of commands of 128 bytes: allocate a file, add its address to a field of another, make a
//! checksum right, tell the device an address.

pub mod command;
pub mod sum;

use abi::e820::Kind;
use arrayvec::ArrayVec;
use thiserror::Error;

use command::{Command, LEN, Zone};
use sum::sum;

use crate::error;
use crate::f_segment::FSegment;
use crate::fw_cfg::{Files, FwCfg, Name};
use crate::machine::Machine;
use crate::memory_map::MemoryMap;
use crate::places::{DMA, HEAD};

/// The most files that a script may allocate.
const FILES_MAX: usize = 24;
const PAGE: u64 = 4096;
/// Files of so many bytes go to the F segment, wherever they may be.
const SMALL: u64 = 5 << 10;
/// Where the number of a `WRITE_POINTER` stands.
const NUMBER: u64 = DMA.start + 16;

/// What is wrong with the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Not a number of commands.
    #[error("{0} bytes are no list of commands of {LEN} bytes")]
    Size(u32),
    /// A command that nobody knows.
    #[error("command {index}: unknown command {command:#x}")]
    Unknown {
        /// Which, from 0.
        index: u32,
        /// Its number.
        command: u32,
    },
    /// A file that is not in fw_cfg, or was not allocated.
    #[error("command {index} names a file that there is not, or that was not allocated")]
    NoFile {
        /// Which command, from 0.
        index: u32,
    },
    /// A file is allocated twice, or too many are.
    #[error("command {index} allocates a file once more, or one too many")]
    Files {
        /// Which command, from 0.
        index: u32,
    },
    /// A range that leaves its file, or a pointer of a size that there is not.
    #[error("command {index}: {len} bytes at {offset:#x} are outside of the file, or no pointer")]
    Range {
        /// Which command, from 0.
        index: u32,
        /// From where.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// An alignment that is no power of two, or a zone that there is not.
    #[error("command {index}: zone {zone} with alignment {align:#x} is none")]
    Zone {
        /// Which command, from 0.
        index: u32,
        /// Its zone.
        zone: u8,
        /// Its alignment.
        align: u32,
    },
    /// No memory is left for a file.
    #[error("command {index}: no room for a file of {size} bytes")]
    NoRoom {
        /// Which command, from 0.
        index: u32,
        /// Its bytes.
        size: u32,
    },
}

/// A file in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allocated {
    addr: u64,
    size: u32,
}

/// What is in place.
#[derive(Clone, Debug, Default)]
struct Tables {
    files: ArrayVec<(Name, Allocated), FILES_MAX>,
}

/// Runs the script, if there is one; the address of the RSDP, the root of all tables.
#[inline(never)]
pub fn install(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    files: &Files,
    map: &mut MemoryMap,
    f_segment: &mut FSegment,
) -> Result<Option<u64>, error::Error> {
    let Some(script) = files.table_loader else { return Ok(None) };
    if !(script.size as usize).is_multiple_of(LEN) {
        return Err(Error::Size(script.size).into());
    }
    let mut tables = Tables::default();
    let (mut offset, mut index) = (0, 0);
    while offset < script.size {
        let len = (script.size - offset).min(HEAD.len as u32);
        let start = fw_cfg.fetch(machine, script.select, offset, HEAD.start, len)?;
        for at in (start..start + u64::from(len)).step_by(LEN) {
            let bytes = machine.bytes(at, LEN).first_chunk().ok_or(Error::Size(len))?;
            let command = Command::parse(index, bytes)?;
            tables.execute(machine, fw_cfg, map, f_segment, index, &command)?;
            index += 1;
        }
        offset += len;
    }
    Ok(tables.rsdp())
}

impl Tables {
    fn rsdp(&self) -> Option<u64> {
        self.files.iter().find(|file| file.0.is_rsdp()).map(|file| file.1.addr)
    }

    fn file(&self, index: u32, name: &Name) -> Result<Allocated, Error> {
        let found = self.files.iter().find(|file| file.0 == *name);
        found.map(|file| file.1).ok_or(Error::NoFile { index })
    }

    #[inline(never)]
    fn execute(
        &mut self,
        machine: &mut impl Machine,
        fw_cfg: &FwCfg,
        map: &mut MemoryMap,
        f_segment: &mut FSegment,
        index: u32,
        command: &Command,
    ) -> Result<(), error::Error> {
        match *command {
            Command::Nothing => {}
            Command::Allocate { file, align, zone } => {
                let item = fw_cfg.find(machine, &file).ok_or(Error::NoFile { index })?;
                if self.files.is_full() || self.file(index, &file).is_ok() {
                    return Err(Error::Files { index }.into());
                }
                let addr = place(map, f_segment, zone, item.size.into(), align.into())?
                    .ok_or(Error::NoRoom { index, size: item.size })?;
                fw_cfg.read(machine, item.select, 0, addr, item.size)?;
                machine.map(addr, item.size.into());
                self.files.push((file, Allocated { addr, size: item.size }));
            }
            Command::AddPointer { dest, src, offset, size } => {
                let (dest, src) = (self.file(index, &dest)?, self.file(index, &src)?);
                let field = dest.addr + u64::from(offset);
                dest.check_pointer(index, offset, size)?;
                match size {
                    1 => machine.write(field, machine.read::<u8>(field).wrapping_add(src.addr as u8)),
                    2 => machine.write(field, machine.read::<u16>(field).wrapping_add(src.addr as u16)),
                    4 => machine.write(field, machine.read::<u32>(field).wrapping_add(src.addr as u32)),
                    _ => machine.write(field, machine.read::<u64>(field).wrapping_add(src.addr)),
                }
            }
            Command::AddChecksum { file, offset, start, len } => {
                let file = self.file(index, &file)?;
                file.check(index, offset, 1)?;
                file.check(index, start, len)?;
                let sum = sum(machine.bytes(file.addr + u64::from(start), len as usize));
                let byte = file.addr + u64::from(offset);
                machine.write(byte, machine.read::<u8>(byte).wrapping_sub(sum));
            }
            Command::WritePointer { dest, src, dest_offset, src_offset, size } => {
                let src = self.file(index, &src)?;
                src.check(index, src_offset, 1)?;
                let dest = fw_cfg.find(machine, &dest).ok_or(Error::NoFile { index })?;
                Allocated { addr: 0, size: dest.size }.check_pointer(index, dest_offset, size)?;
                machine.write(NUMBER, src.addr + u64::from(src_offset));
                fw_cfg.write(machine, dest.select, dest_offset, NUMBER, size.into())?;
            }
        }
        Ok(())
    }
}

fn place(
    map: &mut MemoryMap,
    f_segment: &mut FSegment,
    zone: Zone,
    size: u64,
    align: u64,
) -> Result<Option<u64>, error::Error> {
    Ok(match zone {
        // Memory that nobody has touched yet may cost the host a huge page, for a few tables.
        Zone::High
            if size <= SMALL
                && align < PAGE
                && let Some(addr) = f_segment.take(size, align) =>
        {
            Some(addr)
        }
        // Whole pages, so that the memory map stays short. Not `Kind::ACPI`: devices write to some files.
        Zone::High => {
            map.reserve_top(size.next_multiple_of(PAGE).max(PAGE), align.max(PAGE), Kind::RESERVED)?
        }
        Zone::FSegment => f_segment.take(size, align),
    })
}

impl Allocated {
    fn check(&self, index: u32, offset: u32, len: u32) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::Range { index, offset, len }),
        }
    }

    fn check_pointer(&self, index: u32, offset: u32, size: u8) -> Result<(), Error> {
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(Error::Range { index, offset, len: size.into() });
        }
        self.check(index, offset, size.into())
    }
}
