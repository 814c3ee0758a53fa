//! Step 4: ACPI tables, which the VMM made and a script puts in place (QEMU, `hw/acpi/bios-linker-loader.c`).
//!
//! The script is a list of commands of 128 bytes: allocate a file, add its address to a field of another, make a
//! checksum right, tell the device an address.

use abi::e820::Kind;
use abi::fw_cfg::NAME_MAX;
use abi::layout::Range;
use arrayvec::ArrayVec;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, little_endian as le};

use crate::error::{self, Name};
use crate::fw_cfg::{Files, FwCfg};
use crate::machine::Machine;
use crate::memory_map::MemoryMap;
use crate::places::{DMA, HEAD, TABLES};

/// Bytes of a command.
pub const COMMAND_LEN: usize = 128;
/// The most files that a script may allocate.
const FILES_MAX: usize = 24;
const RSDP: [u8; NAME_MAX + 1] = abi::fw_cfg::name("etc/acpi/rsdp");
const PAGE: u64 = 4096;
/// Where the number of a `WRITE_POINTER` stands.
const NUMBER: u64 = DMA.start + 16;

/// What is wrong with the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Not a number of commands.
    #[error("{0} bytes are no list of commands of {COMMAND_LEN} bytes")]
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
    #[error("command {index}: there is no file {name}, or it was not allocated")]
    NoFile {
        /// Which command, from 0.
        index: u32,
        /// The file.
        name: Name,
    },
    /// A file is allocated twice, or too many are.
    #[error("command {index}: {name} is allocated already, or is one file too many")]
    Files {
        /// Which command, from 0.
        index: u32,
        /// The file.
        name: Name,
    },
    /// A range that leaves its file, or a pointer of a size that there is not.
    #[error("command {index}: {len} bytes at {offset:#x} are outside of {name} or no pointer")]
    Range {
        /// Which command, from 0.
        index: u32,
        /// The file.
        name: Name,
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
    #[error("command {index}: no room for the {size} bytes of {name}")]
    NoRoom {
        /// Which command, from 0.
        index: u32,
        /// The file.
        name: Name,
        /// Its bytes.
        size: u32,
    },
}

type FileName = [u8; NAME_MAX + 1];

/// A command, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Padding.
    Nothing,
    /// Reads a file into memory.
    Allocate {
        /// The file.
        file: FileName,
        /// Power of two.
        align: u32,
        /// Where.
        zone: Zone,
    },
    /// Adds the address of `src` to a field of `dest`.
    AddPointer {
        /// Whose field.
        dest: FileName,
        /// Whose address.
        src: FileName,
        /// Of the field.
        offset: u32,
        /// Of the field: 1, 2, 4 or 8.
        size: u8,
    },
    /// Subtracts the sum of a range from a byte.
    AddChecksum {
        /// The file.
        file: FileName,
        /// Of the byte.
        offset: u32,
        /// Of the range.
        start: u32,
        /// Of the range.
        len: u32,
    },
    /// Writes the address of a place in `src` to the device's file `dest`.
    WritePointer {
        /// The device's file.
        dest: FileName,
        /// Whose address.
        src: FileName,
        /// Where in `dest`.
        dest_offset: u32,
        /// Where in `src`.
        src_offset: u32,
        /// Bytes of the pointer: 1, 2, 4 or 8.
        size: u8,
    },
}

/// Where a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Anywhere below 4 GiB.
    High,
    /// Where old systems look for it: the F segment.
    FSegment,
}

impl Command {
    /// From its bytes; `index` is for errors alone.
    pub fn parse(index: u32, bytes: &[u8; COMMAND_LEN]) -> Result<Self, Error> {
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct Raw {
            command: le::U32,
            first: FileName,
            body: [u8; COMMAND_LEN - 60],
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct Allocate {
            align: le::U32,
            zone: u8,
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct AddPointer {
            src: FileName,
            offset: le::U32,
            size: u8,
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct AddChecksum {
            offset: le::U32,
            start: le::U32,
            len: le::U32,
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct WritePointer {
            src: FileName,
            dest_offset: le::U32,
            src_offset: le::U32,
            size: u8,
        }
        let raw: &Raw = zerocopy::transmute_ref!(bytes);
        let unknown = Err(Error::Unknown { index, command: raw.command.get() });
        Ok(match raw.command.get() {
            0 => Self::Nothing,
            1 => {
                let Ok((it, _)) = Allocate::ref_from_prefix(&raw.body) else { return unknown };
                let zone = match it.zone {
                    1 => Zone::High,
                    2 => Zone::FSegment,
                    zone => return Err(Error::Zone { index, zone, align: it.align.get() }),
                };
                if !it.align.get().is_power_of_two() {
                    return Err(Error::Zone { index, zone: it.zone, align: it.align.get() });
                }
                Self::Allocate { file: raw.first, align: it.align.get(), zone }
            }
            2 => {
                let Ok((it, _)) = AddPointer::ref_from_prefix(&raw.body) else { return unknown };
                Self::AddPointer { dest: raw.first, src: it.src, offset: it.offset.get(), size: it.size }
            }
            3 => {
                let Ok((it, _)) = AddChecksum::ref_from_prefix(&raw.body) else { return unknown };
                Self::AddChecksum {
                    file: raw.first,
                    offset: it.offset.get(),
                    start: it.start.get(),
                    len: it.len.get(),
                }
            }
            4 => {
                let Ok((it, _)) = WritePointer::ref_from_prefix(&raw.body) else { return unknown };
                Self::WritePointer {
                    dest: raw.first,
                    src: it.src,
                    dest_offset: it.dest_offset.get(),
                    src_offset: it.src_offset.get(),
                    size: it.size,
                }
            }
            _ => return unknown,
        })
    }
}

/// A file in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allocated {
    name: FileName,
    addr: u64,
    size: u32,
}

/// What is in place.
#[derive(Clone, Debug)]
pub struct Tables {
    files: ArrayVec<Allocated, FILES_MAX>,
    f_segment: Range,
}

/// Runs the script, if there is one; `tables` says what is in place.
pub fn install(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    files: &Files,
    map: &mut MemoryMap,
    tables: &mut Tables,
) -> Result<(), error::Error> {
    let Some(script) = files.table_loader else { return Ok(()) };
    if !(script.size as usize).is_multiple_of(COMMAND_LEN) {
        return Err(Error::Size(script.size).into());
    }
    let (mut offset, mut index) = (0, 0);
    while offset < script.size {
        let len = (script.size - offset).min(HEAD.len as u32);
        fw_cfg.read(machine, script.select, offset, HEAD.start, len)?;
        for at in (HEAD.start..HEAD.start + u64::from(len)).step_by(COMMAND_LEN) {
            let bytes = machine.bytes(at, COMMAND_LEN).first_chunk().ok_or(Error::Size(len))?;
            let command = Command::parse(index, bytes)?;
            tables.execute(machine, fw_cfg, map, index, &command)?;
            index += 1;
        }
        offset += len;
    }
    Ok(())
}

impl Default for Tables {
    fn default() -> Self {
        Self { files: ArrayVec::new(), f_segment: TABLES }
    }
}

impl Tables {
    /// Address of the RSDP, the root of all tables.
    #[must_use]
    pub fn rsdp(&self) -> Option<u64> {
        self.files.iter().find(|file| file.name == RSDP).map(|file| file.addr)
    }

    /// What is left of the part of the F segment where tables go.
    #[must_use]
    pub fn f_segment(&self) -> Range {
        self.f_segment
    }

    fn file(&self, index: u32, name: &FileName) -> Result<Allocated, Error> {
        let found = self.files.iter().find(|file| file.name == *name).copied();
        found.ok_or(Error::NoFile { index, name: Name(*name) })
    }

    fn execute(
        &mut self,
        machine: &mut impl Machine,
        fw_cfg: &FwCfg,
        map: &mut MemoryMap,
        index: u32,
        command: &Command,
    ) -> Result<(), error::Error> {
        match *command {
            Command::Nothing => {}
            Command::Allocate { file, align, zone } => {
                let name = Name(file);
                let item = fw_cfg.find(machine, file).ok_or(Error::NoFile { index, name })?;
                if self.files.is_full() || self.file(index, &file).is_ok() {
                    return Err(Error::Files { index, name }.into());
                }
                let addr = self.place(map, zone, item.size.into(), align.into())?.ok_or(Error::NoRoom {
                    index,
                    name,
                    size: item.size,
                })?;
                fw_cfg.read(machine, item.select, 0, addr, item.size)?;
                machine.map(addr, item.size.into());
                self.files.push(Allocated { name: file, addr, size: item.size });
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
                let name = dest;
                let dest = fw_cfg.find(machine, name).ok_or(Error::NoFile { index, name: Name(name) })?;
                Allocated { name, addr: 0, size: dest.size }.check_pointer(index, dest_offset, size)?;
                machine.write(NUMBER, src.addr + u64::from(src_offset));
                fw_cfg.write(machine, dest.select, dest_offset, NUMBER, size.into())?;
            }
        }
        Ok(())
    }

    fn place(
        &mut self,
        map: &mut MemoryMap,
        zone: Zone,
        size: u64,
        align: u64,
    ) -> Result<Option<u64>, error::Error> {
        match zone {
            // Whole pages, so that the memory map stays short. Not `Kind::ACPI`: devices write to some files.
            Zone::High => {
                Ok(map.reserve_top(size.next_multiple_of(PAGE).max(PAGE), align.max(PAGE), Kind::RESERVED)?)
            }
            Zone::FSegment => {
                // The RSDP is looked for at multiples of 16 (ACPI 6.5, 5.2.5.1).
                let start = self.f_segment.start.next_multiple_of(align.max(16));
                let end = start + size;
                if end >= self.f_segment.end() {
                    return Ok(None);
                }
                self.f_segment = Range::new(end, self.f_segment.end());
                Ok(Some(start))
            }
        }
    }
}

impl Allocated {
    fn check(&self, index: u32, offset: u32, len: u32) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::Range { index, name: Name(self.name), offset, len }),
        }
    }

    fn check_pointer(&self, index: u32, offset: u32, size: u8) -> Result<(), Error> {
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(Error::Range { index, name: Name(self.name), offset, len: size.into() });
        }
        self.check(index, offset, size.into())
    }
}

/// Sum of bytes, modulo 256.
#[must_use]
pub fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
