//! Where the firmware keeps what, below 1 MiB.
//!
//! ```text
//! 0x0_0000  interrupt vectors, BIOS data area
//! 0x0_1000  INFO: what a payload is told (start info, Multiboot information, memory map, strings)
//! 0x0_7000  ZERO_PAGE, for Linux
//! 0x0_9000  PAGE_TABLES
//! 0x1_0000  SETUP: Linux's setup code, where it runs in real mode
//! 0x2_0000  CMDLINE
//! 0x3_0000  STACK of a payload that is promised one
//! 0x7_0000  the firmware's own: nothing of it is in use once a payload runs
//! 0x9_fc00  EBDA
//! 0xf_0000  TABLES and what the BIOS services need; see `bios`
//! ```

use abi::layout::{self, Range};

/// What a payload is told.
pub const INFO: Range = Range::new(0x1000, layout::BOOT_PAGE_TABLES.start);
/// Linux's `boot_params`; in [`INFO`], of which Linux needs nothing else.
pub const ZERO_PAGE: Range = layout::ZERO_PAGE;
/// PML4, page-directory-pointer table, four page directories.
pub const PAGE_TABLES: Range =
    Range::new(layout::BOOT_PAGE_TABLES.start, layout::BOOT_PAGE_TABLES.start + 0x6000);
/// Linux's setup code.
pub const SETUP: Range = Range::new(0x1_0000, 0x2_0000);
/// Command line.
pub const CMDLINE: Range = layout::CMDLINE;
/// A payload's stack.
pub const STACK: Range = Range::new(0x3_0000, 0x3_0000 + abi::unikernel::STACK_LEN);
/// A DMA descriptor, then a number that was read.
pub const DMA: Range = Range::new(layout::FIRMWARE_RAM.start, layout::FIRMWARE_RAM.start + 0x40);
/// The directory of fw_cfg.
pub const DIRECTORY: Range = Range::new(DMA.end(), layout::FIRMWARE_RAM.start + 0x2000);
/// The start of the payload's file, or a script.
pub const HEAD: Range = Range::new(DIRECTORY.end(), DIRECTORY.end() + 0x8000);
/// The start of the archive of modules.
pub const ARCHIVE: Range = Range::new(HEAD.end(), HEAD.end() + abi::modules::HEAD_MAX as u64);
/// Tables that must be found between 0xe0000 and 1 MiB.
pub const TABLES: Range = Range::new(0xf_0000, 0xf_2000);

/// What no payload may be loaded over.
pub const KEPT: [Range; 4] =
    [Range::new(0, SETUP.start), CMDLINE, layout::FIRMWARE_RAM, Range::new(layout::EBDA.start, 1 << 20)];

const _: () = assert!(INFO.overlaps(ZERO_PAGE) && PAGE_TABLES.end() <= SETUP.start);
const _: () = assert!(ARCHIVE.end() + 0x4000 <= layout::FIRMWARE_RAM.end(), "room for the firmware's stack");
const _: () = assert!(STACK.end() <= layout::FIRMWARE_RAM.start);
