//! What can be wrong with what is to be booted. Each message is one line: what, where, what to do.

use std::io;

use super::firmware::FileError;
use super::unpack;

/// Why nothing can be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a kernel nor a firmware was given.
    #[error("nothing to boot: name a kernel (--kernel) or a firmware (--firmware)")]
    Nothing,
    /// A protocol that only a firmware knows.
    #[error(
        "a kernel is entered by {0} only through a firmware: name one (--firmware), or leave out the protocol"
    )]
    NeedsFirmware(&'static str),
    /// An initrd was given without a kernel that could use it.
    #[error("an initrd needs a kernel: name one (--kernel), or leave out the initrd")]
    InitrdAlone,
    /// The kernel cannot be booted.
    #[error("--kernel {name}: {problem}")]
    Kernel {
        /// The kernel, as the user named it.
        name: String,
        /// What is wrong with it.
        problem: KernelError,
    },
    /// The initrd cannot be loaded.
    #[error("--initrd {name}: {problem}")]
    Initrd {
        /// The initrd, as the user named it.
        name: String,
        /// What is wrong with it.
        problem: InitrdError,
    },
    /// The firmware cannot be mapped.
    #[error("--firmware {name}: {problem}")]
    Firmware {
        /// The ROM image, as the user named it.
        name: String,
        /// What is wrong with it.
        problem: FirmwareError,
    },
    /// A module cannot be read.
    #[error("--module {name}: {source}")]
    Module {
        /// The module, as the user named it.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The modules are more than the archive for them takes.
    #[error("{count} modules with {len} bytes of command lines do not fit in one archive: give fewer")]
    Modules {
        /// How many there are.
        count: usize,
        /// Bytes of their command lines.
        len: usize,
    },
    /// The firmware cannot be given a file of this name.
    #[error("firmware's file {name}: {problem}")]
    FwCfg {
        /// The file's name.
        name: String,
        /// What is wrong with it.
        problem: FileError,
    },
    /// The command line is longer than the kernel takes.
    #[error("--cmdline: the command line has {len} bytes, kernel {name} takes at most {max}: shorten it")]
    CmdlineTooLong {
        /// The kernel, as the user named it.
        name: String,
        /// Length of the command line in bytes.
        len: usize,
        /// The kernel's limit, without the NUL at the end.
        max: usize,
    },
    /// A NUL would end the command line early.
    #[error("the command line has a NUL byte at {at}: leave it out")]
    CmdlineNul {
        /// Where it stands.
        at: usize,
    },
}

/// What can be wrong with a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is a folder, a pipe, a device.
    #[error("is not a regular file: give a bzImage (vmlinuz) or an ELF kernel (vmlinux)")]
    NotAFile,
    /// Neither magic number is there.
    #[error("is neither a bzImage (\"HdrS\" at 0x202) nor an ELF file: give a vmlinuz or vmlinux for x86-64")]
    Unknown,
    /// A part of it lies beyond its end.
    #[error("is cut short: {what} would reach byte {end:#x}, and the file has {size:#x}; copy it again")]
    Truncated {
        /// The part.
        what: &'static str,
        /// Where the part should end.
        end: u64,
        /// The file's size.
        size: u64,
    },
    /// A field has a value that no sound kernel has.
    #[error("{field} is {value:#x}: {why}; the file is damaged or not for x86-64")]
    Field {
        /// The field by its name in the specification.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// Why that cannot be.
        why: &'static str,
    },
    /// A segment cannot be placed.
    #[error("segment {start:#x}..{end:#x} {why}")]
    Segment {
        /// First guest-physical address.
        start: u64,
        /// End of the segment, or the last address where it has none.
        end: u64,
        /// Why it cannot be placed, and what to do.
        why: &'static str,
    },
    /// The entry point is in no segment.
    #[error("the entry point {0:#x} is not in the loaded image; the file is damaged")]
    Entry(u64),
    /// There is no 64-bit entry.
    #[error("has no 64-bit entry ({why}): give an x86-64 kernel of Linux 3.8 or later")]
    No64Bit {
        /// What tells.
        why: &'static str,
    },
    /// PVH was asked for and is not there.
    #[error("has no PVH entry (ELF note \"Xen\" 18): build it with CONFIG_PVH=y, or leave out the protocol")]
    NoPvh,
    /// PVH was asked for, for a `bzImage` as it is.
    #[error("the PVH entry is inside its compressed payload: let it be unpacked, or leave out the protocol")]
    PvhPacked,
    /// The VM has too little RAM.
    #[error("needs at least {} MiB of RAM below 3 GiB, the VM has {}: give it more memory", .need.div_ceil(1 << 20), .have >> 20)]
    Memory {
        /// Bytes from address 0 on that it needs.
        need: u64,
        /// Bytes that there are.
        have: u64,
    },
    /// The payload cannot be unpacked.
    #[error("{0}")]
    Unpack(#[from] unpack::Error),
    /// The relocation table is unsound.
    #[error("its relocation table is unsound at word {index}: {why}; the file is damaged")]
    Relocations {
        /// Index of the 32-bit word, counted from the end of the ELF file before it.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// What can be wrong with an initrd.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is a folder, a pipe, a device.
    #[error("is not a regular file: give a cpio archive")]
    NotAFile,
    /// It is empty.
    #[error("is empty: give a cpio archive, or leave it out")]
    Empty,
    /// There is no room for it.
    #[error(
        "its {len} bytes do not fit into RAM beside the kernel ({free} bytes are free for it): give the VM more memory"
    )]
    NoRoom {
        /// Its length.
        len: u64,
        /// The longest that would have fitted.
        free: u64,
    },
}

/// What can be wrong with a firmware.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is a folder, a pipe, a device.
    #[error("is not a regular file: give a ROM image")]
    NotAFile,
    /// Its size is not one that a ROM can have here.
    #[error("has {size} bytes: a ROM image has a multiple of 4096, from 4 KiB to 16 MiB")]
    Size {
        /// Its size.
        size: u64,
    },
}
