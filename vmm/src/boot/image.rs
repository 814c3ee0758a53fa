//! The file form of an unpacked kernel: what is not zero of it, page by page, and its relocations. It is what the
//! cache keeps; without a cache it is an anonymous file, so that there is one way to place a kernel.
//!
//! ```text
//! 0                   Header
//! size_of::<Header>   runs, then relocations by kind
//! data_start          contents of the runs, each at a multiple of PAGE
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::cache::Key;
use super::elf::Elf;
use super::relocs::Relocs;

const PAGE: usize = 4096;
/// Fewer zero pages than this between two others are kept: each run costs a system call.
const MIN_ZERO_PAGES: usize = 16;
/// Of this layout, and of what went into it: another version is another kernel.
const MAGIC: [u8; 8] = *b"JFYKRN\x01\0";

/// Fixed part of the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    /// The whole file's length.
    len: U64,
    key: Key,
    entry: U64,
    /// One more than the PVH entry; 0 where there is none.
    pvh_entry: U64,
    extent: [U64; 2],
    runs: U64,
    /// How many relocations of each kind: `add32`, `sub32`, `add64`.
    relocs: [U64; 3],
}

/// A stretch of the kernel's memory that is not all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Run {
    /// Guest-physical address, of a kernel at the address it was linked for.
    pub addr: U64,
    /// Length in bytes.
    pub len: U64,
    /// Where its contents start in the file.
    pub offset: U64,
}

/// An unpacked kernel whose contents stay in a file.
#[derive(Debug)]
pub struct Image {
    /// The file.
    pub file: File,
    /// 64-bit entry point.
    pub entry: u64,
    /// PVH entry point.
    pub pvh_entry: Option<u32>,
    /// First address, and the end of the last segment, zeros included.
    pub extent: (u64, u64),
    /// What is in memory.
    pub runs: Vec<Run>,
    /// What a virtual offset changes.
    pub relocs: Relocs,
}

/// Writes the unpacked kernel `elf`, whose contents are `bytes`, to the empty `file`.
pub fn write(mut file: &File, key: Key, elf: &Elf, bytes: &[u8], relocs: &Relocs) -> io::Result<()> {
    let found = runs(elf, bytes, relocs);
    let sets = [&relocs.add32, &relocs.sub32, &relocs.add64];
    let tables = found.len() * size_of::<Run>() + sets.iter().map(|set| size_of_val(&set[..])).sum::<usize>();
    let data_start = (size_of::<Header>() + tables).next_multiple_of(PAGE) as u64;
    let mut end = data_start;
    let mut head = Vec::with_capacity(data_start as usize);
    let mut placed = Vec::with_capacity(found.len());
    for (addr, source) in &found {
        placed.push(Run { addr: (*addr).into(), len: (source.len() as u64).into(), offset: end.into() });
        end += (source.len() as u64).next_multiple_of(PAGE as u64);
    }
    let (first, last) = elf.extent();
    let header = Header {
        magic: MAGIC,
        len: end.into(),
        key,
        entry: elf.entry.into(),
        pvh_entry: elf.notes.pvh_entry.map_or(0, |entry| u64::from(entry) + 1).into(),
        extent: [first.into(), last.into()],
        runs: (found.len() as u64).into(),
        relocs: sets.map(|set| (set.len() as u64).into()),
    };
    head.extend_from_slice(header.as_bytes());
    head.extend_from_slice(placed.as_bytes());
    for set in sets {
        head.extend_from_slice(set.as_bytes());
    }
    file.write_all(&head)?;
    for (run, (_, source)) in placed.iter().zip(&found) {
        file.write_all_at(source, run.offset.get())?;
    }
    file.set_len(end)
}

impl Image {
    /// Opens what [`write()`] wrote. `None` if it is something else: of another kernel or version, or not whole.
    /// The relocations are left out where they are not wanted.
    pub fn open(file: File, key: &Key, with_relocs: bool) -> io::Result<Option<Self>> {
        let mut header = Header::new_zeroed();
        file.read_exact_at(header.as_mut_bytes(), 0)?;
        let counts = header.relocs.map(U64::get);
        let sound = header.magic == MAGIC && header.key == *key && header.len.get() == file.metadata()?.len();
        let mut at = size_of::<Header>() as u64;
        let tables = header.runs.get().saturating_mul(size_of::<Run>() as u64);
        let tables = counts.iter().fold(tables, |sum, count| sum.saturating_add(count.saturating_mul(4)));
        if !sound || at.saturating_add(tables) > header.len.get() {
            return Ok(None);
        }
        let mut runs = vec![Run::new_zeroed(); header.runs.get() as usize];
        read_table(&file, runs.as_mut_bytes(), &mut at)?;
        let mut set = |count: u64| {
            let mut words = vec![0u32; count as usize];
            read_table(&file, words.as_mut_bytes(), &mut at).map(|()| words)
        };
        let relocs = if with_relocs {
            Relocs { add32: set(counts[0])?, sub32: set(counts[1])?, add64: set(counts[2])? }
        } else {
            Relocs::default()
        };
        Ok(Some(Self {
            file,
            entry: header.entry.get(),
            pvh_entry: header.pvh_entry.get().checked_sub(1).and_then(|entry| u32::try_from(entry).ok()),
            extent: (header.extent[0].get(), header.extent[1].get()),
            runs,
            relocs,
        }))
    }
}

fn read_table(file: &File, into: &mut [u8], at: &mut u64) -> io::Result<()> {
    file.read_exact_at(into, *at)?;
    *at += into.len() as u64;
    Ok(())
}

/// The stretches of the kernel's segments that are not all zeros, or that a relocation may change.
fn runs<'a>(elf: &Elf, bytes: &'a [u8], relocs: &Relocs) -> Vec<(u64, &'a [u8])> {
    let mut found = Vec::new();
    for segment in &elf.segments {
        let from = segment.offset as usize;
        let contents = &bytes[from..from + segment.file_len as usize];
        let mut wanted: Vec<bool> = contents.chunks(PAGE).map(|page| !is_zero(page)).collect();
        for word in relocs.words_in(segment.addr..segment.file_end()) {
            for address in [word.start, word.end - 1] {
                wanted[(address - segment.addr) as usize / PAGE] = true;
            }
        }
        let mut start = 0;
        while let Some(first) = wanted[start..].iter().position(|&w| w).map(|at| start + at) {
            let mut end = first;
            while let Some(next) = wanted[end..].iter().take(MIN_ZERO_PAGES).position(|&w| w) {
                end += next + 1;
            }
            let stretch = &contents[first * PAGE..contents.len().min(end * PAGE)];
            found.push((segment.addr + (first * PAGE) as u64, stretch));
            start = end;
        }
    }
    found
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().fold(0, |all, byte| all | byte) == 0
}
