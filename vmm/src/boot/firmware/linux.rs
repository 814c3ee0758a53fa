//! A `bzImage` for a firmware, by the items that QEMU gives it in (`hw/i386/x86.c`, `x86_load_linux`): the setup
//! sectors with the loader's fields filled in, and the rest as it is.

use std::sync::Arc;

use abi::fw_cfg::key;
use abi::layout::{HIGH_RAM_START, Range};

use super::super::error::KernelError;
use super::super::read::{ReadAt, read_vec};
use super::super::{FilePart, Input};
use super::contents::Contents;

const SECTOR: u64 = 512;
/// Fields of the setup header (Linux, `Documentation/arch/x86/boot.rst`).
const SETUP_SECTS: usize = 0x1f1;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const HEAP_END_PTR: usize = 0x224;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
/// QEMU's number among loaders.
const LOADER_QEMU: u8 = 0xb0;
const LOADED_HIGH: u8 = 1 << 0;
const CAN_USE_HEAP: u8 = 1 << 7;
/// Longest command line of kernels that don't say how long it may be.
const CMDLINE_MAX: usize = 255;

/// A kernel, its setup sectors apart.
pub(super) struct Linux {
    setup: Vec<u8>,
    kernel: FilePart,
    real_addr: u32,
    cmdline_addr: u32,
    prot_addr: u32,
}

impl Linux {
    /// Takes the file apart.
    pub(super) fn parse(input: &Input<'_>) -> Result<Self, KernelError> {
        let size = ReadAt::size(&*input.file)?;
        let sectors = read_vec(&*input.file, size, "the boot sector", SETUP_SECTS as u64, 1)?[0];
        let len = (if sectors == 0 { 4 } else { u64::from(sectors) } + 1) * SECTOR;
        let setup = read_vec(&*input.file, size, "the real-mode code", 0, len)?;
        if size == len {
            return Err(KernelError::Truncated { what: "the real-mode code", end: len + 1, size });
        }
        let kernel = FilePart { file: Arc::clone(&input.file), offset: len, len: size - len };
        let mut linux = Self { setup, kernel, real_addr: 0x1_0000, cmdline_addr: 0x2_0000, prot_addr: 0 };
        linux.prot_addr = HIGH_RAM_START as u32;
        let version = linux.version();
        if version < 0x200 || linux.byte(LOADFLAGS) & LOADED_HIGH == 0 {
            (linux.real_addr, linux.cmdline_addr, linux.prot_addr) = (0x9_0000, 0x9_9000, 0x1_0000);
        } else if version < 0x202 {
            (linux.real_addr, linux.cmdline_addr) = (0x9_0000, 0x9_9000);
        }
        Ok(linux)
    }

    fn version(&self) -> u16 {
        u16::from(self.byte(VERSION)) | u16::from(self.byte(VERSION + 1)) << 8
    }

    /// The header is in the first two sectors, and there are at least that many.
    fn byte(&self, at: usize) -> u8 {
        self.setup[at]
    }

    fn field(&self, at: usize, first_version: u16) -> Option<u32> {
        let bytes = [0, 1, 2, 3].map(|i| self.byte(at + i));
        (self.version() >= first_version).then_some(u32::from_le_bytes(bytes))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.setup[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The longest command line that it takes, without NUL.
    pub(super) fn cmdline_max(&self) -> usize {
        self.field(CMDLINE_SIZE, 0x206).map_or(CMDLINE_MAX, |max| max as usize)
    }

    /// The end of what an initrd may take.
    pub(super) fn initrd_limit(&self, low: u64) -> u64 {
        low.min(u64::from(self.field(INITRD_ADDR_MAX, 0x203).unwrap_or(0x37ff_ffff)) + 1)
    }

    /// What it takes before it manages memory itself.
    pub(super) fn occupied(&self) -> Vec<Range> {
        let loaded = Range { start: self.prot_addr.into(), len: self.kernel.len };
        let runs = self
            .field(INIT_SIZE, 0x20a)
            .zip(self.field(PREF_ADDRESS, 0x20a))
            .map(|(len, start)| Range { start: start.into(), len: len.into() });
        std::iter::once(loaded).chain(runs).collect()
    }

    /// Sets the items.
    pub(super) fn give(mut self, initrd: Option<Range>, contents: &mut Contents) {
        let version = self.version();
        if version >= 0x202 {
            let addr = self.cmdline_addr.to_le_bytes();
            self.put(CMD_LINE_PTR, &addr);
        } else {
            // boot.rst, "The Kernel Command Line", for old protocols: a magic number and an offset in the boot sector.
            let offset = (self.cmdline_addr - self.real_addr) as u16;
            self.put(0x20, &0xa33f_u16.to_le_bytes());
            self.put(0x22, &offset.to_le_bytes());
        }
        if version >= 0x200 {
            self.put(TYPE_OF_LOADER, &[LOADER_QEMU]);
            let initrd = initrd.unwrap_or(Range { start: 0, len: 0 });
            self.put(RAMDISK_IMAGE, &(initrd.start as u32).to_le_bytes());
            self.put(RAMDISK_IMAGE + 4, &(initrd.len as u32).to_le_bytes());
        }
        if version >= 0x201 {
            let heap_end = (self.cmdline_addr - self.real_addr - 0x200) as u16;
            self.put(LOADFLAGS, &[self.byte(LOADFLAGS) | CAN_USE_HEAP]);
            self.put(HEAP_END_PTR, &heap_end.to_le_bytes());
        }
        contents.number(key::SETUP_ADDR, self.real_addr);
        contents.number(key::SETUP_SIZE, self.setup.len() as u32);
        contents.set(key::SETUP_DATA, self.setup);
        contents.number(key::KERNEL_ADDR, self.prot_addr);
        contents.number(key::KERNEL_SIZE, self.kernel.len as u32);
        contents.set(key::KERNEL_DATA, self.kernel);
        contents.number(key::CMDLINE_ADDR, self.cmdline_addr);
    }
}
