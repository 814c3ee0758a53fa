//! A firmware: a ROM image that ends at 4 GiB, entered at the reset vector, and what it is told by fw_cfg.
//!
//! | kernel | how the firmware gets it |
//! |-|-|
//! | `bzImage` | by QEMU's items for `-kernel`, which every firmware for QEMU knows |
//! | ELF with a PVH entry | it is in memory already; how to enter it, by the same items |
//! | all others | as the file [`abi::firmware::KERNEL`], which Jiffy's firmware knows |

mod archive;
mod contents;
mod linux;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use abi::firmware::{CMDLINE, KERNEL, MODULES, PROTOCOL};
use abi::fw_cfg::key;
use abi::layout::Range;

use super::elf::{self, Elf};
use super::error::{Error, FirmwareError, KernelError};
use super::read::ReadAt;
use super::{BootCpu, BootState, FilePart, Input, MemoryWrite, Request, bzimage, kernel, read};
use crate::config::Protocol;
use archive::archive;
pub use contents::{Content, Contents, FileError, Part};
use linux::Linux;

/// What a ROM's size is a multiple of.
const PAGE: u64 = 4096;
/// Magic number of the headers of Multiboot (0.6.96, 3.1) and Multiboot 2 (3.1.1), where they end in a file at the
/// latest, and what they are aligned to.
const MULTIBOOT: [(u32, usize, usize); 2] = [(0x1bad_b002, 8192, 4), (0xe852_50d6, 32768, 8)];
/// What QEMU gives as the setup of an ELF kernel.
const ELF_HEAD: u64 = 8192;
/// Left free at the end of RAM for a firmware's ACPI tables.
const TABLES_LEN: u64 = 1 << 20;

/// What a machine that starts in a firmware needs.
#[derive(Debug)]
pub struct Firmware {
    /// ROM to be mapped so that it ends at 4 GiB; its last 128 KiB also go to [`abi::layout::ROM_SHADOW`].
    pub rom: FilePart,
    /// What it is told of its payload.
    pub contents: Contents,
}

/// Checks a ROM image and prepares its payload; mapping it, and its shadow below 1 MiB, is up to the machine.
pub(super) fn load(input: &Input<'_>, request: &Request<'_>) -> Result<BootState, Error> {
    let rom = rom(input).map_err(|problem| Error::Firmware { name: input.name.to_owned(), problem })?;
    let mut contents = Contents::default();
    let writes = match &request.kernel {
        Some(kernel) => give(kernel, request, &mut contents)?,
        None => Vec::new(),
    };
    for (name, source) in &request.fw_cfg {
        let content = match source {
            Ok(input) => whole(input).map(Content::from),
            Err(text) => Ok(text.as_bytes().to_vec().into()),
        };
        let problem = |problem| Error::FwCfg { name: (*name).to_owned(), problem };
        contents.file(name, content.map_err(|e| problem(e.into()))?).map_err(problem)?;
    }
    let loaded_bytes = writes.iter().map(MemoryWrite::len).sum();
    let firmware = Some(Firmware { rom, contents });
    Ok(BootState { writes, firmware, cpu: BootCpu::Reset, loaded_bytes, kernel: None })
}

fn rom(input: &Input<'_>) -> Result<FilePart, FirmwareError> {
    let meta = input.file.metadata()?;
    if !meta.is_file() {
        return Err(FirmwareError::NotAFile);
    }
    let size = meta.len();
    if size == 0 || size % PAGE != 0 || size > abi::layout::ROM.len {
        return Err(FirmwareError::Size { size });
    }
    Ok(FilePart { file: Arc::clone(&input.file), offset: 0, len: size })
}

/// Gives the firmware a kernel, and what goes with it; what is in memory before it starts.
fn give(
    input: &Input<'_>,
    request: &Request<'_>,
    contents: &mut Contents,
) -> Result<Vec<MemoryWrite>, Error> {
    let named = |problem| Error::Kernel { name: input.name.to_owned(), problem };
    let kind = kind(input, request.protocol).map_err(named)?;
    let asked = request.protocol.of_firmware().map(abi::firmware::Protocol::word);
    let mut files: Vec<(&str, Content)> =
        asked.map(|word| (PROTOCOL, word.as_bytes().to_vec().into())).into_iter().collect();
    let cmdline = [request.cmdline.as_bytes(), &[0]].concat();
    contents.number(key::CMDLINE_SIZE, cmdline.len() as u32);
    contents.set(key::CMDLINE_DATA, cmdline.clone());
    let limit = request.ram.low().end() - TABLES_LEN;
    let mut writes = Vec::new();
    let mut modules = Vec::new();
    match kind {
        Kind::Linux => {
            let linux = Linux::parse(input).map_err(named)?;
            super::check_cmdline(request.cmdline, linux.cmdline_max(), input)?;
            let initrd = give_initrd(request, linux.initrd_limit(limit), &linux.occupied(), contents)?;
            linux.give(initrd, contents);
        }
        Kind::Pvh => {
            let asked = Request { protocol: Protocol::Pvh, ..request.clone() };
            let kernel = kernel::load(input, &asked).map_err(named)?;
            super::check_cmdline(request.cmdline, kernel.cmdline_max, input)?;
            give_initrd(request, kernel.initrd_limit.min(limit), &kernel.occupied, contents)?;
            give_elf(input, &kernel, contents).map_err(named)?;
            writes = kernel.writes;
        }
        Kind::Other => {
            let part = whole(input).map_err(|e| named(e.into()))?;
            files.extend([(KERNEL, part.into()), (CMDLINE, cmdline.into())]);
            if let Some(initrd) = &request.initrd {
                modules.push((super::initrd_part(initrd)?, ""));
            }
        }
    }
    for (input, cmdline) in &request.modules {
        let part = whole(input).map_err(|source| Error::Module { name: input.name.to_owned(), source })?;
        modules.push((part, *cmdline));
    }
    if !modules.is_empty() {
        let (count, len) = (modules.len(), modules.iter().map(|(_, cmdline)| cmdline.len()).sum());
        files.push((MODULES, archive(modules).ok_or(Error::Modules { count, len })?));
    }
    for (name, content) in files {
        contents.file(name, content).map_err(|problem| Error::FwCfg { name: name.to_owned(), problem })?;
    }
    Ok(writes)
}

/// Which way a kernel goes.
enum Kind {
    Linux,
    Pvh,
    Other,
}

fn kind(input: &Input<'_>, asked: Protocol) -> Result<Kind, KernelError> {
    let size = ReadAt::size(&*input.file)?;
    let longest = MULTIBOOT.iter().map(|(_, len, _)| *len as u64).max().unwrap_or_default();
    let head = read::read_vec(&*input.file, size, "the kernel", 0, size.min(longest))?;
    let has_note = || Ok::<_, KernelError>(Elf::parse(&*input.file)?.notes.pvh_entry.is_some());
    Ok(match asked {
        Protocol::Pvh if bzimage::is_bzimage(&head) => return Err(KernelError::PvhPacked),
        Protocol::Pvh => Kind::Pvh,
        _ if bzimage::is_bzimage(&head) => Kind::Linux,
        Protocol::Auto if elf::is_elf(&head) && !has_multiboot(&head) && has_note()? => Kind::Pvh,
        _ => Kind::Other,
    })
}

/// Whether there is a header whose magic number, flags (or architecture and length) and checksum add up to 0.
fn has_multiboot(head: &[u8]) -> bool {
    MULTIBOOT.iter().enumerate().any(|(version, &(magic, len, align))| {
        let words = |at: &[u8]| -> Vec<u32> {
            at.chunks_exact(4)
                .take(3 + version)
                .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
                .collect()
        };
        let head = &head[..head.len().min(len)];
        (0..head.len()).step_by(align).map(|at| words(&head[at..])).any(|words| {
            words.len() == 3 + version
                && words[0] == magic
                && words.iter().fold(0_u32, |sum, word| sum.wrapping_add(*word)) == 0
        })
    })
}

/// Items for an ELF kernel that is in memory (QEMU, `hw/i386/x86.c`, `load_elfboot`).
fn give_elf(input: &Input<'_>, kernel: &kernel::Kernel, contents: &mut Contents) -> Result<(), KernelError> {
    let kernel::Entry::Pvh { eip } = kernel.entry else { return Err(KernelError::NoPvh) };
    let start = kernel.occupied.iter().map(|range| range.start).min().unwrap_or_default();
    let end = kernel.occupied.iter().map(|range| range.end()).max().unwrap_or_default();
    contents.number(key::KERNEL_ENTRY, eip);
    contents.number(key::KERNEL_ADDR, start as u32);
    contents.number(key::KERNEL_SIZE, (end - start) as u32);
    let part = whole(input)?;
    let head = FilePart { len: part.len.min(ELF_HEAD), ..part };
    contents.number(key::SETUP_SIZE, head.len as u32);
    contents.set(key::SETUP_DATA, head);
    Ok(())
}

/// Places an initrd that the firmware is to load.
fn give_initrd(
    request: &Request<'_>,
    limit: u64,
    occupied: &[Range],
    contents: &mut Contents,
) -> Result<Option<Range>, Error> {
    let Some(initrd) = &request.initrd else { return Ok(None) };
    let part = super::initrd_part(initrd)?;
    let range = super::place_initrd(initrd, part.len, limit, occupied)?;
    contents.number(key::INITRD_ADDR, range.start as u32);
    contents.number(key::INITRD_SIZE, range.len as u32);
    contents.set(key::INITRD_DATA, part);
    Ok(Some(range))
}

fn whole(input: &Input<'_>) -> std::io::Result<FilePart> {
    Ok(FilePart { file: Arc::clone(&input.file), offset: 0, len: input.file.metadata()?.len() })
}
