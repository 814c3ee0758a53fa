//! ELF notes: the PVH entry, and whether the kernel is Linux.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::note::NoteDataIterator;
use goblin::elf::program_header::ProgramHeader;

use super::error::KernelError;
use super::read::{ReadAt, read_vec};

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `xen/include/public/elfnote.h`): the descriptor is the entry point.
const XEN_PHYS32_ENTRY: u32 = 18;
/// `XEN_ELFNOTE_GUEST_OS` (Xen, `xen/include/public/elfnote.h`): the descriptor names the system.
const XEN_GUEST_OS: u32 = 6;
/// More bytes of notes than any kernel has.
const MAX_LEN: u64 = 1 << 20;

/// What the notes of a kernel say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Entry point by PVH, in 32-bit mode.
    pub pvh_entry: Option<u32>,
    /// Whether it is a Linux kernel.
    pub is_linux: bool,
}

impl Notes {
    /// Takes over what `other` says, where `self` says nothing.
    pub fn merge(&mut self, other: Self) {
        self.pvh_entry = self.pvh_entry.or(other.pvh_entry);
        self.is_linux |= other.is_linux;
    }

    /// Reads notes from the contents of a note segment aligned to `align` bytes. What cannot be parsed ends the
    /// notes.
    #[must_use]
    pub fn parse(data: &[u8], align: u64) -> Self {
        // Notes of ELF32 and ELF64 have the same form.
        let ctx = Ctx::new(Container::Big, Endian::Little);
        let align = if align == 8 { 8 } else { 4 };
        let iter = NoteDataIterator { data, size: data.len(), offset: 0, ctx: (align, ctx) };
        let mut notes = Self::default();
        for note in iter.map_while(Result::ok) {
            notes.merge(match (note.name, note.n_type) {
                ("Xen", XEN_PHYS32_ENTRY) => Self { pvh_entry: address(note.desc), is_linux: false },
                ("Xen", XEN_GUEST_OS) => {
                    Self { pvh_entry: None, is_linux: note.desc.strip_suffix(b"\0") == Some(b"linux") }
                }
                ("Linux", _) => Self { pvh_entry: None, is_linux: true },
                _ => Self::default(),
            });
        }
        notes
    }
}

/// Reads the note segment that `ph` describes.
pub fn read<R: ReadAt + ?Sized>(source: &R, size: u64, ph: &ProgramHeader) -> Result<Notes, KernelError> {
    if ph.p_filesz > MAX_LEN {
        let why = "more notes than a kernel has";
        return Err(KernelError::Field { field: "p_filesz of PT_NOTE", value: ph.p_filesz, why });
    }
    let data = read_vec(source, size, "the ELF notes", ph.p_offset, ph.p_filesz)?;
    Ok(Notes::parse(&data, ph.p_align))
}

/// An address of 4 or 8 bytes, below 4 GiB.
fn address(desc: &[u8]) -> Option<u32> {
    match desc.len() {
        4 => Some(u32::from_le_bytes(desc.try_into().ok()?)),
        8 => u32::try_from(u64::from_le_bytes(desc.try_into().ok()?)).ok(),
        _ => None,
    }
}
