//! The firmware configuration device (QEMU, `docs/specs/fw_cfg.rst`): items that are chosen by a selector and read
//! byte by byte from a port, or at once by DMA.
//!
//! The kernel that QEMU was given by `-kernel` is in items without a name, all numbers little-endian and of four
//! bytes; everything else is a file of the directory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian as be};

/// Selects an item; two bytes, little-endian.
pub const SELECTOR: u16 = 0x510;
/// Reads the selected item byte by byte.
pub const DATA: u16 = 0x511;
/// High half of the address of a [`DmaAccess`], big-endian; reads as the first half of [`DMA_SIGNATURE`].
pub const DMA_ADDRESS_HIGH: u16 = 0x514;
/// Low half, big-endian; its write starts the transfer and leaves the high half 0.
pub const DMA_ADDRESS_LOW: u16 = 0x518;
/// What both halves of the address read as, big-endian, where there is DMA.
pub const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// What the item [`key::SIGNATURE`] holds.
pub const SIGNATURE: [u8; 4] = *b"QEMU";

/// Selectors of items.
pub mod key {
    /// [`super::SIGNATURE`].
    pub const SIGNATURE: u16 = 0x00;
    /// Four bytes of features: bit 0, the traditional interface; bit 1, DMA.
    pub const ID: u16 = 0x01;
    /// Number of CPUs at the start; two bytes.
    pub const NB_CPUS: u16 = 0x05;
    /// Where the kernel goes, or is.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// Its bytes; 0 without a kernel.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Where the initrd goes.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// Its bytes.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// Where a kernel that is no bzImage starts.
    pub const KERNEL_ENTRY: u16 = 0x10;
    /// The kernel, without the sectors in [`SETUP_DATA`]; nothing where the VMM has put the kernel in place.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initrd; for a Multiboot kernel that the VMM has loaded, its information structure.
    pub const INITRD_DATA: u16 = 0x12;
    /// Where the command line goes.
    pub const CMDLINE_ADDR: u16 = 0x13;
    /// Its bytes, with the NUL.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Where the setup sectors go.
    pub const SETUP_ADDR: u16 = 0x16;
    /// Their bytes; 0 for a Multiboot kernel.
    pub const SETUP_SIZE: u16 = 0x17;
    /// The setup sectors; of an ELF kernel, its first 8 KiB.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory: a number of files, four bytes, big-endian, then as many [`super::File`]s.
    pub const FILE_DIR: u16 = 0x19;
    /// Selector of the first file.
    pub const FILE_FIRST: u16 = 0x20;
}

/// What a transfer does: the low half of [`DmaAccess::control`].
pub mod dma {
    /// The device sets it when the transfer failed.
    pub const ERROR: u32 = 1 << 0;
    /// From the item to memory.
    pub const READ: u32 = 1 << 1;
    /// Go forward in the item.
    pub const SKIP: u32 = 1 << 2;
    /// First select the item whose selector is in the high half.
    pub const SELECT: u32 = 1 << 3;
    /// From memory to the item.
    pub const WRITE: u32 = 1 << 4;
}

/// A transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaAccess {
    /// Bits of [`dma`], and a selector in the high half. The device writes 0 when it is done.
    pub control: be::U32,
    /// Bytes. Behind an item's end zeros are read.
    pub length: be::U32,
    /// Guest-physical address.
    pub address: be::U64,
}

const _: () = assert!(size_of::<DmaAccess>() == 16);

/// Longest name of a file.
pub const NAME_MAX: usize = 55;

/// A file, as it stands in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct File {
    /// Its bytes.
    pub size: be::U32,
    /// Its selector.
    pub select: be::U16,
    /// Nothing.
    pub reserved: be::U16,
    /// Its name, then at least one NUL.
    pub name: [u8; NAME_MAX + 1],
}

const _: () = assert!(size_of::<File>() == 64);

/// A name as [`File`]s hold it.
#[must_use]
pub const fn name(text: &str) -> [u8; NAME_MAX + 1] {
    let (bytes, mut name) = (text.as_bytes(), [0; NAME_MAX + 1]);
    assert!(bytes.len() <= NAME_MAX);
    let mut i = 0;
    while i < bytes.len() {
        name[i] = bytes[i];
        i += 1;
    }
    name
}
