//! A kernel file becomes memory writes and an entry point.

use std::sync::Arc;
use std::time::SystemTime;

use abi::layout::{CMDLINE, Range};
use linux_loader::bootparam::setup_header;

use super::bzimage::{self, BzImage};
use super::elf::{self, Elf};
use super::read::{ReadAt, read_vec};
use super::unpack::Format;
use super::unpacked::{self, Image};
use super::{FilePart, Input, KernelError, KernelReport, MemoryWrite, Payload, Relocation, Request};
use super::{kaslr, linux64, ram};
use crate::config::Protocol;

/// Where the 64-bit entry is in the protected-mode code of a `bzImage` (boot.rst, "64-bit Boot Protocol").
const ENTRY_64: u64 = 0x200;
/// The longest command line for a kernel that sets no limit.
const CMDLINE_MAX: usize = CMDLINE.len as usize - 1;

/// A kernel whose place is settled.
pub struct Kernel {
    /// Its contents.
    pub writes: Vec<MemoryWrite>,
    /// All memory that it needs until it manages memory itself, no two ranges overlapping.
    pub occupied: Vec<Range>,
    /// How it is entered.
    pub entry: Entry,
    /// The longest command line that it takes, without NUL.
    pub cmdline_max: usize,
    /// The initrd has to end at or below this address.
    pub initrd_limit: u64,
    /// How it was prepared.
    pub report: KernelReport,
}

/// How a kernel is entered.
pub enum Entry {
    /// By Linux's 64-bit protocol, with this setup header.
    Linux64 {
        /// The setup header.
        setup: Box<setup_header>,
        /// Entry point.
        rip: u64,
    },
    /// By PVH.
    Pvh {
        /// Entry point.
        eip: u32,
    },
}

/// Tells what kind of kernel `input` is, and prepares it.
pub fn load(input: &Input<'_>, request: &Request<'_>) -> Result<Kernel, KernelError> {
    let meta = input.file.metadata()?;
    if !meta.is_file() {
        return Err(KernelError::NotAFile);
    }
    let mut head = vec![0; meta.len().min(BzImage::HEAD as u64) as usize];
    ReadAt::read_exact_at(&*input.file, &mut head, 0)?;
    if elf::is_elf(&head) {
        load_elf(input, request)
    } else if bzimage::is_bzimage(&head) {
        load_bzimage(input, request)
    } else {
        Err(KernelError::Unknown)
    }
}

fn load_elf(input: &Input<'_>, request: &Request<'_>) -> Result<Kernel, KernelError> {
    let elf = Elf::parse(&*input.file)?;
    let low = request.ram.low().end();
    let mut writes = Vec::new();
    let mut occupied = Vec::new();
    for segment in &elf.segments {
        let range = Range { start: segment.addr, len: segment.mem_len };
        ram::check_segment(range, request.ram)?;
        occupied.push(range);
        if segment.file_len > 0 {
            let (file, offset) = (Arc::clone(&input.file), segment.offset);
            let part = FilePart { file, offset, len: segment.file_len };
            writes.push(MemoryWrite { addr: segment.addr, data: Payload::File(part) });
        }
    }
    let setup = linux64::plain_header();
    let linux_max = setup.cmdline_size as usize;
    let linux_limit = low.min(u64::from(setup.initrd_addr_max) + 1);
    let protocol = elf_protocol(&elf, request.protocol)?;
    let (entry, address, cmdline_max, initrd_limit) = match (protocol, elf.notes.pvh_entry) {
        (Protocol::Pvh, Some(eip)) => {
            let max = if elf.notes.is_linux { linux_max } else { CMDLINE_MAX };
            (Entry::Pvh { eip }, eip.into(), max, low)
        }
        (Protocol::Pvh, None) => return Err(KernelError::NoPvh),
        _ => {
            let entry = Entry::Linux64 { setup: Box::new(setup), rip: elf.entry };
            (entry, elf.entry, linux_max, linux_limit)
        }
    };
    if !elf.has_code_at(address) {
        return Err(KernelError::Entry(address));
    }
    let report = KernelReport { protocol, unpacked: None, kaslr_offset: None };
    Ok(Kernel { writes, occupied, entry, cmdline_max, initrd_limit, report })
}

/// How an ELF kernel is entered. Linux has both entries; other kernels that have a PVH entry mean it.
fn elf_protocol(elf: &Elf, asked: Protocol) -> Result<Protocol, KernelError> {
    match asked {
        Protocol::Pvh => Ok(Protocol::Pvh),
        Protocol::Auto if elf.notes.pvh_entry.is_some() && !(elf.is_64bit && elf.notes.is_linux) => {
            Ok(Protocol::Pvh)
        }
        _ if elf.is_64bit => Ok(Protocol::Linux64),
        _ => Err(KernelError::No64Bit { why: "it is ELF32" }),
    }
}

fn load_bzimage(input: &Input<'_>, request: &Request<'_>) -> Result<Kernel, KernelError> {
    let image = BzImage::parse(&*input.file)?;
    let low = request.ram.low().end();
    let place = image.load_range(low)?;
    let setup = Box::new(image.setup);
    let (cmdline_size, initrd_addr_max) = (image.setup.cmdline_size, image.setup.initrd_addr_max);
    let cmdline_max = (cmdline_size as usize).min(CMDLINE_MAX);
    let initrd_limit = low.min(u64::from(initrd_addr_max) + 1);
    let occupied = vec![place];
    let magic = read_vec(&*input.file, input.file.size()?, "the packed kernel", image.payload.start, 4)?;
    // The few compressions that are not known here, the kernel can still undo itself.
    if !request.unpack || matches!(Format::of(&magic)?, Format::Other(_)) {
        if request.protocol == Protocol::Pvh {
            return Err(KernelError::PvhPacked);
        }
        let Range { start: offset, len } = image.protected;
        if len <= ENTRY_64 {
            return Err(KernelError::Entry(place.start + ENTRY_64));
        }
        let part = FilePart { file: Arc::clone(&input.file), offset, len };
        let writes = vec![MemoryWrite { addr: place.start, data: Payload::File(part) }];
        let entry = Entry::Linux64 { setup, rip: place.start + ENTRY_64 };
        let report = KernelReport { protocol: Protocol::Linux64, unpacked: None, kaslr_offset: None };
        return Ok(Kernel { writes, occupied, entry, cmdline_max, initrd_limit, report });
    }

    let pvh = request.protocol == Protocol::Pvh;
    // By PVH a kernel is told neither that nor where it was moved.
    if pvh && place.start != image.setup.pref_address {
        return Err(KernelError::Memory { need: image.setup.pref_address + place.len, have: low });
    }
    let offset = if pvh { None } else { kaslr::offset(request.kaslr, &image, request.cmdline)? };
    let (unpacked, origin) =
        unpacked::get(&input.file, &image, request.unpack_cache, offset.is_some(), SystemTime::now())?;
    let entry = match (pvh, unpacked.pvh_entry) {
        (true, Some(eip)) => Entry::Pvh { eip },
        (true, None) => return Err(KernelError::NoPvh),
        (false, _) => Entry::Linux64 { setup, rip: unpacked.entry - image.setup.pref_address + place.start },
    };
    let kaslr_offset = offset.filter(|_| !unpacked.relocs.is_empty());
    let protocol = if pvh { Protocol::Pvh } else { Protocol::Linux64 };
    let report = KernelReport { protocol, unpacked: Some(origin), kaslr_offset };
    let writes = place_image(unpacked, place.start, image.setup.pref_address, kaslr_offset);
    Ok(Kernel { writes, occupied, entry, cmdline_max, initrd_limit, report })
}

/// Writes for an unpacked kernel that was linked for `linked` and goes to `start`.
fn place_image(image: Image, start: u64, linked: u64, offset: Option<u64>) -> Vec<MemoryWrite> {
    let file = Arc::new(image.file);
    let relocation =
        offset.filter(|&by| by != 0).map(|offset| Arc::new(Relocation { offset, relocs: image.relocs }));
    let write = |run: &super::image::Run| {
        let addr = run.addr.get();
        let part = FilePart { file: Arc::clone(&file), offset: run.offset.get(), len: run.len.get() };
        let data = match &relocation {
            Some(relocation) => Payload::Relocated { part, relocation: Arc::clone(relocation), start: addr },
            None => Payload::File(part),
        };
        MemoryWrite { addr: addr - linked + start, data }
    };
    image.runs.iter().map(write).collect()
}
