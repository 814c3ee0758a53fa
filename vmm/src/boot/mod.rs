//! Loaders: a file's bytes in, a [`BootState`] out. They never touch a vCPU, and what goes to guest memory is data
//! until [`MemoryWrite::place`] is called.
//!
//! | file | entry | see |
//! |-|-|-|
//! | ELF kernel | Linux's 64-bit protocol, or PVH | [`elf`], [`linux64`], [`pvh`] |
//! | `bzImage` as it is | Linux's 64-bit protocol | [`bzimage`] |
//! | `bzImage` unpacked on the host | Linux's 64-bit protocol, or PVH | [`unpack`], [`relocs`], [`kaslr`], [`cache`] |
//! | firmware, with or without a kernel for it | reset vector | [`firmware`] |

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use abi::layout::{CMDLINE, Range};

use crate::config::{Kaslr, Protocol};
use crate::memory::layout::{E820Entry, RamLayout};

pub mod bzimage;
pub mod cache;
pub mod elf;
mod error;
pub mod firmware;
pub mod image;
pub mod kaslr;
mod kernel;
pub mod linux64;
pub mod note;
mod place;
pub mod pvh;
mod ram;
pub mod read;
pub mod relocs;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod unpack;
mod unpacked;

pub use error::{Error, FirmwareError, InitrdError, KernelError};
pub use firmware::Firmware;
pub use place::{FilePart, MemoryWrite, Payload, Relocation};
pub use unpacked::Origin;

use kernel::{Entry, Kernel};

/// An open file, and what the user called it.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The file, opened for reading.
    pub file: Arc<File>,
    /// Its name for messages.
    pub name: &'a str,
}

/// What is to be booted, and on what.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `bzImage` or ELF kernel.
    pub kernel: Option<Input<'a>>,
    /// Initial RAM file system.
    pub initrd: Option<Input<'a>>,
    /// ROM image, which starts in place of the kernel, and then starts the kernel.
    pub firmware: Option<Input<'a>>,
    /// What a firmware loads beside the kernel, with command lines.
    pub modules: Vec<(Input<'a>, &'a str)>,
    /// Further files for a firmware: names, and where the content is, or the content.
    pub fw_cfg: Vec<(&'a str, Result<Input<'a>, &'a str>)>,
    /// Kernel command line, without NUL.
    pub cmdline: &'a str,
    /// How the kernel is entered.
    pub protocol: Protocol,
    /// Whether the payload of a `bzImage` is unpacked on the host.
    pub unpack: bool,
    /// Where in its virtual window an unpacked `bzImage` goes.
    pub kaslr: Kaslr,
    /// The guest's RAM.
    pub ram: RamLayout,
    /// Where the ACPI tables' RSDP is.
    pub rsdp: Option<u64>,
    /// Folder for unpacked kernels, made if it is missing; none are kept without one.
    pub unpack_cache: Option<&'a Path>,
}

/// All that has to be in place before the boot vCPU may run.
#[derive(Debug)]
pub struct BootState {
    /// Memory to be written, in no particular order; no two overlap, all are in RAM.
    pub writes: Vec<MemoryWrite>,
    /// What a firmware is and is told, where there is one.
    pub firmware: Option<Firmware>,
    /// How the boot vCPU starts.
    pub cpu: BootCpu,
    /// Bytes of kernel and initrd that `writes` places, for the timeline.
    pub loaded_bytes: u64,
    /// How the kernel was prepared, if there is one.
    pub kernel: Option<KernelReport>,
}

/// How a kernel was prepared, for those who want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelReport {
    /// How it is entered; never [`Protocol::Auto`].
    pub protocol: Protocol,
    /// Where its unpacked form came from, if it was unpacked on the host.
    pub unpacked: Option<Origin>,
    /// What was added to its virtual addresses, if they were randomised on the host. A `bzImage` that unpacks
    /// itself randomises its own; an ELF kernel and one entered by PVH have none.
    pub kaslr_offset: Option<u64>,
}

/// The initial state of the boot vCPU; registers that are not named are as after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootCpu {
    /// 64-bit mode with flat segments (CS 0x10, DS/ES/SS 0x18, from [`abi::layout::BOOT_GDT`]), paging on,
    /// interrupts off (Linux `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol").
    Long {
        /// Entry point.
        rip: u64,
        /// Stack pointer.
        rsp: u64,
        /// Physical address of the PML4.
        cr3: u64,
        /// Physical address of the zero page.
        rsi: u64,
    },
    /// 32-bit protected mode, flat segments, paging off (Xen `docs/misc/pvh.pandoc`, "x86/HVM direct boot ABI").
    Protected {
        /// Entry point.
        eip: u32,
        /// Physical address of `hvm_start_info`.
        ebx: u32,
    },
    /// As the processor comes out of reset: real mode at the reset vector 0xffff_fff0.
    Reset,
}

/// What a kernel is told, whatever the protocol.
pub struct Arguments<'a> {
    cmdline: &'a str,
    initrd: Option<Range>,
    rsdp: Option<u64>,
    e820: Vec<E820Entry>,
}

impl Arguments<'_> {
    fn cmdline_write(&self) -> MemoryWrite {
        let mut bytes = self.cmdline.as_bytes().to_vec();
        bytes.push(0);
        MemoryWrite::bytes(CMDLINE.start, bytes)
    }
}

/// Prepares what `request` asks for. The kind of kernel is found by its content.
pub fn load(request: &Request<'_>) -> Result<BootState, Error> {
    match (&request.kernel, &request.firmware) {
        (None, _) if request.initrd.is_some() => Err(Error::InitrdAlone),
        (_, Some(firmware)) => firmware::load(firmware, request),
        (Some(kernel), None) => load_kernel(kernel, request),
        (None, None) => Err(Error::Nothing),
    }
}

fn load_kernel(input: &Input<'_>, request: &Request<'_>) -> Result<BootState, Error> {
    let problem = |problem| Error::Kernel { name: input.name.to_owned(), problem };
    if let Some(protocol) = request.protocol.of_firmware().filter(|_| !request.protocol.is_direct()) {
        return Err(Error::NeedsFirmware(protocol.word()));
    }
    let Kernel { mut writes, occupied, entry, cmdline_max, initrd_limit, report } =
        kernel::load(input, request).map_err(problem)?;
    check_cmdline(request.cmdline, cmdline_max, input)?;
    let initrd = match &request.initrd {
        Some(initrd) => {
            let part = initrd_part(initrd)?;
            let range = place_initrd(initrd, part.len, initrd_limit, &occupied)?;
            writes.push(MemoryWrite { addr: range.start, data: Payload::File(part) });
            Some(range)
        }
        None => None,
    };
    let loaded_bytes = writes.iter().map(MemoryWrite::len).sum();
    let e820 = request.ram.e820();
    let arguments = Arguments { cmdline: request.cmdline, initrd, rsdp: request.rsdp, e820 };
    let (tables, cpu) = match entry {
        Entry::Linux64 { setup, rip } => {
            let end = occupied.iter().map(|range| range.end()).max().unwrap_or_default();
            linux64::prepare(*setup, report.kaslr_offset.is_some(), rip, end, &arguments)
        }
        Entry::Pvh { eip } => pvh::prepare(eip, &arguments),
    };
    writes.extend(tables);
    Ok(BootState { writes, firmware: None, cpu, loaded_bytes, kernel: Some(report) })
}

/// Checks a command line for a kernel that takes at most `max` bytes of it.
fn check_cmdline(cmdline: &str, max: usize, kernel: &Input<'_>) -> Result<(), Error> {
    if let Some(at) = cmdline.find('\0') {
        return Err(Error::CmdlineNul { at });
    }
    let len = cmdline.len();
    if len > max {
        return Err(Error::CmdlineTooLong { name: kernel.name.to_owned(), len, max });
    }
    Ok(())
}

/// All of an initrd.
fn initrd_part(input: &Input<'_>) -> Result<FilePart, Error> {
    let problem = |problem| Error::Initrd { name: input.name.to_owned(), problem };
    let meta = input.file.metadata().map_err(|e| problem(e.into()))?;
    match meta.len() {
        _ if !meta.is_file() => Err(problem(InitrdError::NotAFile)),
        0 => Err(problem(InitrdError::Empty)),
        len => Ok(FilePart { file: Arc::clone(&input.file), offset: 0, len }),
    }
}

/// Places an initrd as high as it may be, clear of the kernel and of what the kernel will need.
fn place_initrd(input: &Input<'_>, len: u64, limit: u64, occupied: &[Range]) -> Result<Range, Error> {
    ram::place_high(len, limit, occupied).map_err(|free| Error::Initrd {
        name: input.name.to_owned(),
        problem: InitrdError::NoRoom { len, free },
    })
}
