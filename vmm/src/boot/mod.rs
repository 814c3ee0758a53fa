//! Loaders: a file's bytes in, a [`BootState`] out. They never touch a vCPU or guest memory.

use std::fs::File;
use std::sync::Arc;

/// All that has to be in place before the boot vCPU may run.
#[derive(Debug)]
pub struct BootState {
    /// Memory to be written, in no particular order; no two overlap.
    pub writes: Vec<MemoryWrite>,
    /// How the boot vCPU starts.
    pub cpu: BootCpu,
    /// Bytes of kernel and initrd that `writes` places, for the timeline.
    pub loaded_bytes: u64,
}

/// Bytes for a place in guest memory.
#[derive(Debug)]
pub struct MemoryWrite {
    /// Guest-physical address.
    pub addr: u64,
    /// What goes there.
    pub data: Payload,
}

/// Where the bytes of a [`MemoryWrite`] come from.
#[derive(Debug)]
pub enum Payload {
    /// Bytes made by the loader.
    Bytes(Vec<u8>),
    /// A part of a file, copied (or mapped) only when it is placed.
    File {
        /// The file, opened for reading.
        file: Arc<File>,
        /// First byte in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
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
