//! ELF kernels: `vmlinux`, unikernels, and what a `bzImage` unpacks to. Parsing yields where things are in the
//! file and where they go; nothing is placed here.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{EI_DATA, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFMAG};
use goblin::elf::header::{EM_386, EM_X86_64, ET_DYN, ET_EXEC, Header, SIZEOF_IDENT};
use goblin::elf::program_header::{PT_LOAD, PT_NOTE, ProgramHeader};
use goblin::elf::section_header::{SHT_NOBITS, SectionHeader};

use super::error::KernelError;
use super::note::{self, Notes};
use super::read::{ReadAt, read_vec};

/// More program headers than any kernel has.
const MAX_PROGRAM_HEADERS: u16 = 128;
/// More sections than any kernel has that is not built for debugging single functions.
const MAX_SECTIONS: u16 = 0xff00;

/// What matters of an ELF kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Whether it is ELF64 for x86-64, rather than ELF32 for the 386.
    pub is_64bit: bool,
    /// Entry point as the header has it.
    pub entry: u64,
    /// What is loaded, ascending by address, none empty, none overlapping another.
    pub segments: Vec<Segment>,
    /// What its notes say.
    pub notes: Notes,
}

/// A loadable part: `file_len` bytes of the file, then zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in memory, at least one byte.
    pub mem_len: u64,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// How many bytes the file has, at most `mem_len`.
    pub file_len: u64,
}

impl Segment {
    /// First address after the segment.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.addr + self.mem_len
    }

    /// First address after the part that the file has.
    #[must_use]
    pub const fn file_end(&self) -> u64 {
        self.addr + self.file_len
    }
}

/// Whether a file that begins with `head` is an ELF file.
#[must_use]
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(ELFMAG)
}

impl Elf {
    /// Parses the headers and notes of an ELF kernel.
    pub fn parse<R: ReadAt + ?Sized>(source: &R) -> Result<Self, KernelError> {
        let size = source.size()?;
        let (header, ctx) = header(source, size)?;
        let is_64bit = ctx.container == Container::Big;
        let mut segments = Vec::new();
        let mut notes = Notes::default();
        for ph in program_headers(source, size, &header, ctx)? {
            match ph.p_type {
                PT_LOAD if ph.p_memsz > 0 => segments.push(segment(&ph, size)?),
                PT_NOTE => notes.merge(note::read(source, size, &ph, ctx)?),
                _ => {}
            }
        }
        segments.sort_by_key(|s| s.addr);
        if let Some(two) = segments.windows(2).find(|two| two[0].end() > two[1].addr) {
            let (start, end) = (two[1].addr, two[1].end());
            return Err(KernelError::Segment { start, end, why: "overlaps another; the file is damaged" });
        }
        if segments.is_empty() {
            let why = "nothing is to be loaded";
            return Err(KernelError::Field { field: "ELF e_phnum", value: header.e_phnum.into(), why });
        }
        Ok(Self { is_64bit, entry: header.e_entry, segments, notes })
    }

    /// Whether `addr` is in the part of a segment that the file has.
    #[must_use]
    pub fn has_code_at(&self, addr: u64) -> bool {
        self.segments.iter().any(|s| (s.addr..s.file_end()).contains(&addr))
    }

    /// All addresses from the first segment to the end of the last.
    #[must_use]
    pub fn extent(&self) -> (u64, u64) {
        let first = self.segments.first().map_or(0, |s| s.addr);
        (first, self.segments.last().map_or(first, Segment::end))
    }
}

/// Where the ELF file itself ends: what follows (the relocations of an unpacked `bzImage`) is not part of it.
pub fn content_end<R: ReadAt + ?Sized>(source: &R) -> Result<u64, KernelError> {
    let size = source.size()?;
    let (header, ctx) = header(source, size)?;
    let table = |offset: u64, count: u16, entry: u16| offset + u64::from(count) * u64::from(entry);
    let mut end = u64::from(header.e_ehsize);
    for ph in program_headers(source, size, &header, ctx)? {
        end = end.max(file_end("an ELF segment", ph.p_offset, ph.p_filesz, size)?);
    }
    if header.e_phnum > 0 {
        end = end.max(table(header.e_phoff, header.e_phnum, header.e_phentsize));
    }
    if header.e_shoff != 0 && header.e_shnum > 0 {
        let sections = SectionHeader::size(ctx) as u64;
        check_table("ELF e_shnum", header.e_shnum, MAX_SECTIONS, header.e_shentsize.into(), sections)?;
        let len = u64::from(header.e_shnum) * sections;
        let bytes = read_vec(source, size, "the ELF section headers", header.e_shoff, len)?;
        end = end.max(header.e_shoff + len);
        let why = "not a section header table";
        let headers = SectionHeader::parse_from(&bytes, 0, header.e_shnum.into(), ctx)
            .map_err(|_| KernelError::Field { field: "ELF e_shoff", value: header.e_shoff, why })?;
        for sh in headers.iter().filter(|sh| sh.sh_type != SHT_NOBITS) {
            end = end.max(file_end("an ELF section", sh.sh_offset, sh.sh_size, size)?);
        }
    }
    Ok(end)
}

/// Reads and checks the file header.
fn header<R: ReadAt + ?Sized>(source: &R, size: u64) -> Result<(Header, Ctx), KernelError> {
    let ident = read_vec(source, size, "the ELF header", 0, SIZEOF_IDENT as u64)?;
    if !is_elf(&ident) {
        return Err(KernelError::Unknown);
    }
    let field = |field, value: u64, why| KernelError::Field { field, value, why };
    let (container, machine) = match ident[4] {
        ELFCLASS64 => (Container::Big, EM_X86_64),
        ELFCLASS32 => (Container::Little, EM_386),
        other => return Err(field("ELF EI_CLASS", other.into(), "neither 32 nor 64 bits")),
    };
    if ident[EI_DATA] != ELFDATA2LSB {
        return Err(field("ELF EI_DATA", ident[EI_DATA].into(), "not little-endian"));
    }
    let ctx = Ctx::new(container, Endian::Little);
    let bytes = read_vec(source, size, "the ELF header", 0, Header::size(ctx) as u64)?;
    let header = goblin::elf::Elf::parse_header(&bytes).map_err(|_| KernelError::Unknown)?;
    if header.e_machine != machine {
        return Err(field("ELF e_machine", header.e_machine.into(), "not x86"));
    }
    if header.e_type != ET_EXEC && header.e_type != ET_DYN {
        return Err(field("ELF e_type", header.e_type.into(), "not an executable"));
    }
    Ok((header, ctx))
}

/// Reads the program headers; their number and size are checked before anything is allocated.
fn program_headers<R: ReadAt + ?Sized>(
    source: &R,
    size: u64,
    header: &Header,
    ctx: Ctx,
) -> Result<Vec<ProgramHeader>, KernelError> {
    let entry = ProgramHeader::size(ctx) as u64;
    if header.e_phnum > 0 {
        check_table("ELF e_phnum", header.e_phnum, MAX_PROGRAM_HEADERS, header.e_phentsize.into(), entry)?;
    }
    let len = u64::from(header.e_phnum) * entry;
    let bytes = read_vec(source, size, "the ELF program headers", header.e_phoff, len)?;
    ProgramHeader::parse(&bytes, 0, header.e_phnum.into(), ctx).map_err(|_| KernelError::Field {
        field: "ELF e_phoff",
        value: header.e_phoff,
        why: "not a program header table",
    })
}

fn check_table(
    field: &'static str,
    count: u16,
    most: u16,
    entry_size: u64,
    expected_size: u64,
) -> Result<(), KernelError> {
    if count > most {
        return Err(KernelError::Field { field, value: count.into(), why: "more than a kernel has" });
    }
    if entry_size != expected_size {
        let why = "the entries have another size";
        return Err(KernelError::Field { field: "ELF e_phentsize or e_shentsize", value: entry_size, why });
    }
    Ok(())
}

fn segment(ph: &ProgramHeader, size: u64) -> Result<Segment, KernelError> {
    let error = |end, why| KernelError::Segment { start: ph.p_paddr, end, why };
    let end = ph.p_paddr.checked_add(ph.p_memsz);
    let end = end.ok_or_else(|| error(u64::MAX, "wraps around; the file is damaged"))?;
    if ph.p_filesz > ph.p_memsz {
        return Err(error(end, "is longer in the file than in memory; the file is damaged"));
    }
    file_end("an ELF segment", ph.p_offset, ph.p_filesz, size)?;
    Ok(Segment { addr: ph.p_paddr, mem_len: ph.p_memsz, offset: ph.p_offset, file_len: ph.p_filesz })
}

fn file_end(what: &'static str, offset: u64, len: u64, size: u64) -> Result<u64, KernelError> {
    let end = offset.saturating_add(len);
    if len > 0 && end > size {
        return Err(KernelError::Truncated { what, end, size });
    }
    Ok(if len > 0 { end } else { 0 })
}
