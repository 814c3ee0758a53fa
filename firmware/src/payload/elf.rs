//! ELF files (System V ABI, chapters 4 and 5), of 32 and 64 bits.

use abi::layout::Range;
use arrayvec::ArrayVec;
use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFMAG, SELFMAG};
use goblin::elf::header::{EM_386, EM_X86_64, ET_EXEC};
use goblin::elf::program_header::{PT_LOAD, PT_NOTE};
use goblin::{elf32, elf64};
use plain::Plain;
use thiserror::Error;

use super::{Boot, Source};
use crate::error;
use crate::machine::Machine;
use crate::memory_map::FOUR_GIB;

/// What an ELF file starts with.
pub const MAGIC: [u8; SELFMAG] = *ELFMAG;
/// The most segments that are loaded, and the most notes.
const SEGMENTS_MAX: usize = 32;
/// The most program headers.
const HEADERS_MAX: u16 = 128;

/// What is wrong with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// No ELF file.
    #[error("no ELF file")]
    Magic,
    /// Not for this processor.
    #[error("not little-endian, or not for x86")]
    Machine,
    /// Truncated.
    #[error("truncated, or program headers that are not in the first 32 KiB")]
    Truncated,
    /// More program headers than anybody needs.
    #[error("{0} program headers, more than {HEADERS_MAX}, or more than {SEGMENTS_MAX} segments to load")]
    Headers(u16),
    /// Nothing to load.
    #[error("nothing to load")]
    Empty,
    /// A segment that leaves the file or the address space, or has more bytes in the file than in memory.
    #[error("the segment at {addr:#x} is outside of the file or of 4 GiB, or larger than its memory")]
    Segment {
        /// Its address.
        addr: u64,
    },
    /// Two segments share memory.
    #[error("the segment at {addr:#x} overlaps another")]
    Overlap {
        /// Its address.
        addr: u64,
    },
    /// The entry is in no segment.
    #[error("the entry {entry:#x} is in no segment")]
    Entry {
        /// Where.
        entry: u64,
    },
    /// Not what a unikernel has to be.
    #[error("neither Multiboot header nor PVH note, and not an x86-64 file at fixed addresses from 1 MiB on")]
    Unikernel,
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub addr: u64,
    /// Virtual address.
    pub virt: u64,
    /// Where it is in the file.
    pub offset: u32,
    /// Bytes in the file.
    pub file_len: u32,
    /// Bytes in memory.
    pub mem_len: u64,
    /// What notes are padded to.
    pub align: u64,
}

/// What of a file counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Whether it is of 64 bits.
    pub is_64bit: bool,
    /// Whether it is for x86-64, at fixed addresses.
    pub is_fixed_x86_64: bool,
    /// Where it starts, as it stands in the file.
    pub entry: u64,
    /// What is to be loaded, without overlaps.
    pub segments: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Notes.
    pub notes: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Section headers: offset, number, size of each, index of the names.
    pub sections: Sections,
}

/// Where section headers are; they may be anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections {
    /// Offset in the file.
    pub offset: u64,
    /// How many.
    pub count: u16,
    /// Bytes of each.
    pub entry_len: u16,
    /// Which has the names.
    pub names: u16,
}

/// Reads a structure of any alignment.
fn read<T: Plain + Default>(bytes: &[u8], offset: usize) -> Result<T, Error> {
    let bytes = offset.checked_add(size_of::<T>()).and_then(|end| bytes.get(offset..end));
    let mut value = T::default();
    value.copy_from_bytes(bytes.ok_or(Error::Truncated)?).map_err(|_| Error::Truncated)?;
    Ok(value)
}

impl Elf {
    /// From the first bytes of a file of `len` bytes.
    pub fn parse(head: &[u8], len: u32) -> Result<Self, Error> {
        let ident = head.get(..16).filter(|ident| ident.starts_with(&MAGIC)).ok_or(Error::Magic)?;
        if ident[EI_DATA] != ELFDATA2LSB {
            return Err(Error::Machine);
        }
        match ident[EI_CLASS] {
            ELFCLASS32 => {
                let h: elf32::header::Header = read(head, 0)?;
                let sections = Sections {
                    offset: h.e_shoff.into(),
                    count: h.e_shnum,
                    entry_len: h.e_shentsize,
                    names: h.e_shstrndx,
                };
                let elf = Self::new(false, false, h.e_machine, h.e_entry.into(), sections)?;
                elf.with_headers(len, h.e_phoff.into(), h.e_phnum, h.e_phentsize, |offset| {
                    let p: elf32::program_header::ProgramHeader = read(head, offset)?;
                    Ok((
                        p.p_type,
                        Raw {
                            addr: p.p_paddr.into(),
                            virt: p.p_vaddr.into(),
                            offset: p.p_offset.into(),
                            file_len: p.p_filesz.into(),
                            mem_len: p.p_memsz.into(),
                            align: p.p_align.into(),
                        },
                    ))
                })
            }
            ELFCLASS64 => {
                let h: elf64::header::Header = read(head, 0)?;
                let sections = Sections {
                    offset: h.e_shoff,
                    count: h.e_shnum,
                    entry_len: h.e_shentsize,
                    names: h.e_shstrndx,
                };
                let fixed = h.e_machine == EM_X86_64 && h.e_type == ET_EXEC;
                let elf = Self::new(true, fixed, h.e_machine, h.e_entry, sections)?;
                elf.with_headers(len, h.e_phoff, h.e_phnum, h.e_phentsize, |offset| {
                    let p: elf64::program_header::ProgramHeader = read(head, offset)?;
                    Ok((
                        p.p_type,
                        Raw {
                            addr: p.p_paddr,
                            virt: p.p_vaddr,
                            offset: p.p_offset,
                            file_len: p.p_filesz,
                            mem_len: p.p_memsz,
                            align: p.p_align,
                        },
                    ))
                })
            }
            _ => Err(Error::Machine),
        }
    }

    fn new(
        is_64bit: bool,
        is_fixed_x86_64: bool,
        e_machine: u16,
        entry: u64,
        sections: Sections,
    ) -> Result<Self, Error> {
        if !matches!(e_machine, EM_386 | EM_X86_64) {
            return Err(Error::Machine);
        }
        let (segments, notes) = (ArrayVec::new(), ArrayVec::new());
        Ok(Self { is_64bit, is_fixed_x86_64, entry, segments, notes, sections })
    }

    fn with_headers(
        mut self,
        len: u32,
        offset: u64,
        count: u16,
        entry_len: u16,
        read: impl Fn(usize) -> Result<(u32, Raw), Error>,
    ) -> Result<Self, Error> {
        if count > HEADERS_MAX {
            return Err(Error::Headers(count));
        }
        let offset = usize::try_from(offset).map_err(|_| Error::Truncated)?;
        for i in 0..usize::from(count) {
            let at = offset.checked_add(i * usize::from(entry_len)).ok_or(Error::Truncated)?;
            let (kind, raw) = read(at)?;
            match kind {
                PT_LOAD if raw.mem_len > 0 => {
                    let segment = raw.check(len)?;
                    let end = segment.addr + segment.mem_len;
                    if self.segments.iter().any(|it| it.addr < end && segment.addr < it.addr + it.mem_len) {
                        return Err(Error::Overlap { addr: segment.addr });
                    }
                    self.segments.try_push(segment).map_err(|_| Error::Headers(count))?;
                }
                PT_NOTE => {
                    let note = Raw { addr: 0, mem_len: raw.file_len, ..raw }.check(len)?;
                    self.notes.try_push(note).map_err(|_| Error::Headers(count))?;
                }
                _ => {}
            }
        }
        if self.segments.is_empty() { Err(Error::Empty) } else { Ok(self) }
    }

    /// From the first to the last byte in memory.
    #[must_use]
    pub fn extent(&self) -> Range {
        let start = self.segments.iter().map(|it| it.addr).min().unwrap_or(0);
        let end = self.segments.iter().map(|it| it.addr + it.mem_len).max().unwrap_or(1);
        Range::new(start, end)
    }

    /// Physical address of an entry that is given as physical or, as many linkers leave it, virtual.
    #[must_use]
    pub fn physical_entry(&self) -> Option<u64> {
        let entry = self.entry;
        let within = |start: u64, it: &Segment| entry >= start && entry - start < it.mem_len;
        let by_virt = self.segments.iter().find(|it| within(it.virt, it));
        let by_addr = self.segments.iter().find(|it| within(it.addr, it)).map(|_| entry);
        by_virt.map(|it| entry - it.virt + it.addr).or(by_addr)
    }

    /// Loads all segments, `offset` bytes above where the file wants them.
    pub fn load<M: Machine>(
        &self,
        boot: &mut Boot<M>,
        file: Source,
        offset: u64,
    ) -> Result<(), error::Error> {
        for segment in &self.segments {
            let start = segment.addr.wrapping_add(offset);
            let room = super::Error::Room { start };
            let end = start.checked_add(segment.mem_len).filter(|&end| end <= FOUR_GIB).ok_or(room)?;
            if !boot.map.take(start, end) {
                return Err(room.into());
            }
            let from = file.offset + segment.offset;
            boot.fw_cfg.read(boot.machine, file.item, from, start, segment.file_len)?;
            let zeros = segment.mem_len - u64::from(segment.file_len);
            if zeros > 0 {
                let at = start + u64::from(segment.file_len);
                boot.machine.map(at, zeros);
                boot.machine.clear(at, zeros as usize);
            }
        }
        Ok(())
    }
}

/// A program header as it stands in the file.
struct Raw {
    addr: u64,
    virt: u64,
    offset: u64,
    file_len: u64,
    mem_len: u64,
    align: u64,
}

impl Raw {
    fn check(self, file: u32) -> Result<Segment, Error> {
        let Self { addr, virt, offset, file_len, mem_len, align } = self;
        let in_file = offset.checked_add(file_len).is_some_and(|end| end <= file.into());
        let in_memory = addr.checked_add(mem_len).is_some_and(|end| end <= FOUR_GIB);
        // A segment without bytes may stand anywhere in the file.
        if !(in_file || file_len == 0) || !in_memory || file_len > mem_len {
            return Err(Error::Segment { addr });
        }
        let offset = if file_len == 0 { 0 } else { offset as u32 };
        Ok(Segment { addr, virt, offset, file_len: file_len as u32, mem_len, align })
    }
}
