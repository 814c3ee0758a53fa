//! ELF files (System V ABI, chapters 4 and 5), of 32 and 64 bits.

use abi::layout::Range;
use arrayvec::ArrayVec;
use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFMAG, SELFMAG};
use goblin::elf::header::{EM_386, EM_X86_64, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_NOTE};
use goblin::elf64::program_header::ProgramHeader as Raw;
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
    #[error(
        "neither Multiboot header nor PVH note, and not an x86-64 file that is at fixed addresses from 1 MiB on or \
         position-independent"
    )]
    Unikernel,
    /// A program that a dynamic linker would have to finish.
    #[error("needs a dynamic linker, or has a dynamic section or relocations that are malformed")]
    Dynamic,
    /// A relocation of another kind than those of a static program, or of what is not the program's.
    #[error("the relocation at {addr:#x} is not R_X86_64_RELATIVE, or outside of all segments")]
    Relocation {
        /// What it is of.
        addr: u64,
    },
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
    /// Whether it is for x86-64, at fixed addresses.
    pub is_fixed_x86_64: bool,
    /// Whether it is for x86-64, wherever there is room, and needs nobody else.
    pub is_movable_x86_64: bool,
    /// Where it starts, as it stands in the file.
    pub entry: u64,
    /// What is to be loaded, without overlaps.
    pub segments: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Notes.
    pub notes: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Where its relocations are told.
    pub dynamic: Option<Segment>,
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
        let (header, class) = header(head)?;
        if !matches!(header.e_machine, EM_386 | EM_X86_64) {
            return Err(Error::Machine);
        }
        let count = header.e_phnum;
        if count > HEADERS_MAX {
            return Err(Error::Headers(count));
        }
        let is_x86_64 = class == ELFCLASS64 && header.e_machine == EM_X86_64;
        let mut elf = Self {
            is_fixed_x86_64: is_x86_64 && header.e_type == ET_EXEC,
            is_movable_x86_64: is_x86_64 && header.e_type == ET_DYN,
            entry: header.e_entry,
            segments: ArrayVec::new(),
            notes: ArrayVec::new(),
            dynamic: None,
        };
        let offset = usize::try_from(header.e_phoff).map_err(|_| Error::Truncated)?;
        for i in 0..usize::from(count) {
            let at = offset.checked_add(i * usize::from(header.e_phentsize)).ok_or(Error::Truncated)?;
            let raw = program_header(head, at, class)?;
            match raw.p_type {
                PT_LOAD if raw.p_memsz > 0 => {
                    let segment = Segment::check(&raw, len)?;
                    let end = segment.addr + segment.mem_len;
                    if elf.segments.iter().any(|it| it.addr < end && segment.addr < it.addr + it.mem_len) {
                        return Err(Error::Overlap { addr: segment.addr });
                    }
                    elf.segments.try_push(segment).map_err(|_| Error::Headers(count))?;
                }
                PT_DYNAMIC => elf.dynamic = Some(Segment::check(&raw, len)?),
                PT_INTERP => elf.is_movable_x86_64 = false,
                PT_NOTE => {
                    let note = Segment::check(&Raw { p_paddr: 0, p_memsz: raw.p_filesz, ..raw }, len)?;
                    elf.notes.try_push(note).map_err(|_| Error::Headers(count))?;
                }
                _ => {}
            }
        }
        if elf.segments.is_empty() { Err(Error::Empty) } else { Ok(elf) }
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

impl Segment {
    fn check(raw: &Raw, file: u32) -> Result<Self, Error> {
        let (addr, file_len) = (raw.p_paddr, raw.p_filesz);
        let in_file = raw.p_offset.checked_add(file_len).is_some_and(|end| end <= file.into());
        let in_memory = addr.checked_add(raw.p_memsz).is_some_and(|end| end <= FOUR_GIB);
        // A segment without bytes may stand anywhere in the file.
        if !(in_file || file_len == 0) || !in_memory || file_len > raw.p_memsz {
            return Err(Error::Segment { addr });
        }
        let offset = if file_len == 0 { 0 } else { raw.p_offset as u32 };
        let (virt, mem_len, align) = (raw.p_vaddr, raw.p_memsz, raw.p_align);
        Ok(Self { addr, virt, offset, file_len: file_len as u32, mem_len, align })
    }
}

/// The file's header, as if it were of 64 bits, and its class.
fn header(head: &[u8]) -> Result<(elf64::header::Header, u8), Error> {
    let ident = head.get(..16).filter(|ident| ident.starts_with(&MAGIC)).ok_or(Error::Magic)?;
    let class = ident[EI_CLASS];
    if ident[EI_DATA] != ELFDATA2LSB || !matches!(class, ELFCLASS32 | ELFCLASS64) {
        return Err(Error::Machine);
    }
    if class == ELFCLASS64 {
        return Ok((read(head, 0)?, class));
    }
    let narrow: elf32::header::Header = read(head, 0)?;
    let wide = elf64::header::Header {
        e_type: narrow.e_type,
        e_machine: narrow.e_machine,
        e_entry: narrow.e_entry.into(),
        e_phoff: narrow.e_phoff.into(),
        e_phnum: narrow.e_phnum,
        e_phentsize: narrow.e_phentsize,
        ..Default::default()
    };
    Ok((wide, class))
}

/// A program header, as if it were of 64 bits.
fn program_header(head: &[u8], at: usize, class: u8) -> Result<Raw, Error> {
    if class == ELFCLASS64 {
        return read(head, at);
    }
    let narrow: elf32::program_header::ProgramHeader = read(head, at)?;
    Ok(Raw {
        p_type: narrow.p_type,
        p_flags: narrow.p_flags,
        p_offset: narrow.p_offset.into(),
        p_vaddr: narrow.p_vaddr.into(),
        p_paddr: narrow.p_paddr.into(),
        p_filesz: narrow.p_filesz.into(),
        p_memsz: narrow.p_memsz.into(),
        p_align: narrow.p_align.into(),
    })
}
