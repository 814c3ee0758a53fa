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
                PT_NOTE => notes.merge(note::read(source, size, &ph)?),
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
    let mut end = Header::size(ctx) as u64;
    for ph in program_headers(source, size, &header, ctx)? {
        end = end.max(file_end("an ELF segment", ph.p_offset, ph.p_filesz, size)?);
    }
    if header.e_phnum > 0 {
        end = end.max(header.e_phoff + u64::from(header.e_phnum) * ProgramHeader::size(ctx) as u64);
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

#[cfg(test)]
mod tests {
    use super::super::testing::ElfFile;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn parse(bytes: &[u8]) -> Result<Elf, KernelError> {
        Elf::parse(bytes)
    }

    #[test]
    fn parses_segments_in_order_of_address() {
        for is_64bit in [true, false] {
            let mut file = ElfFile::new(4 * MIB, vec![1; 100]);
            file.is_64bit = is_64bit;
            file.segments.push((2 * MIB, vec![2; 50], 5000));
            let elf = parse(&file.build()).unwrap();
            assert_eq!(
                (elf.is_64bit, elf.entry, elf.extent()),
                (is_64bit, 4 * MIB, (2 * MIB, 4 * MIB + 100))
            );
            let lens: Vec<_> = elf.segments.iter().map(|s| (s.addr, s.file_len, s.mem_len)).collect();
            assert_eq!(lens, [(2 * MIB, 50, 5000), (4 * MIB, 100, 100)]);
            assert!(elf.has_code_at(2 * MIB + 49) && !elf.has_code_at(2 * MIB + 50));
        }
    }

    #[test]
    fn finds_the_pvh_entry_of_either_size() {
        let file = || ElfFile::new(MIB, vec![1; 100]);
        let entry = |file: ElfFile| parse(&file.build()).unwrap().notes.pvh_entry;
        assert_eq!(entry(file().with_note("Xen", 18, &0x10_0010u32.to_le_bytes())), Some(0x10_0010));
        assert_eq!(entry(file().with_note("Xen", 18, &0x10_0010u64.to_le_bytes())), Some(0x10_0010));
        assert_eq!(entry(file().with_note("Xen", 18, &(1u64 << 32).to_le_bytes())), None);
        assert_eq!(entry(file().with_note("Xen", 18, b"abc")), None);
        assert_eq!(entry(file().with_note("Xem", 18, &[0; 4])), None);
        let other = file().with_note("GNU", 3, &[1; 20]).with_note("Xen", 18, &[1, 0, 0, 0]);
        assert_eq!(entry(other), Some(1));
    }

    #[test]
    fn tells_linux_by_its_notes() {
        let is_linux = |name, kind, desc: &[u8]| {
            let file = ElfFile::new(MIB, vec![1; 100]).with_note(name, kind, desc);
            parse(&file.build()).unwrap().notes.is_linux
        };
        assert!(is_linux("Linux", 0x100, &[0; 4]));
        assert!(is_linux("Xen", 6, b"linux\0"));
        assert!(!is_linux("Xen", 6, b"FreeBSD\0"));
    }

    #[test]
    fn refuses_what_no_kernel_has() {
        let two = |first: u64, second: u64| {
            let mut file = ElfFile::new(first, vec![1; 100]);
            file.segments.push((second, vec![1; 100], 100));
            file.build()
        };
        let bent = |at: usize, byte: u8| {
            let mut bytes = ElfFile::new(MIB, vec![1; 100]).build();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            (two(MIB, MIB + 99), "segment 0x100063..0x1000c7 overlaps another"),
            (two(MIB, u64::MAX - 10), "wraps around"),
            (bent(4, 3), "ELF EI_CLASS is 0x3"),
            (bent(5, 2), "ELF EI_DATA is 0x2"),
            (bent(16, 1), "ELF e_type is 0x1"),
            (bent(18, 0xb7), "ELF e_machine is 0xb7"),
            (bent(32, 0xff), "is cut short: the ELF program headers"),
            (bent(54, 55), "e_phentsize or e_shentsize is 0x37"),
            (bent(57, 0xff), "ELF e_phnum is 0xff01"),
            (bent(56, 0), "nothing is to be loaded"),
            (bent(64 + 39, 1), "longer in the file than in memory"),
            (bent(64 + 15, 1), "is cut short: an ELF segment"),
            (b"\x7fELF".to_vec(), "is cut short: the ELF header"),
        ];
        for (bytes, expected) in cases {
            let error = parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} has no {expected:?}");
        }
    }

    #[test]
    fn knows_where_the_file_ends() {
        let file = ElfFile::new(MIB, vec![1; 104]);
        let bytes = file.build();
        let mut longer = [&bytes[..], &[0; 40]].concat();
        assert_eq!(content_end(&longer[..]).unwrap(), bytes.len() as u64);
        // e_ehsize is not to be believed.
        longer[52..54].copy_from_slice(&[0xff; 2]);
        assert_eq!(content_end(&longer[..]).unwrap(), bytes.len() as u64);
    }
}
