//! Where the firmware keeps what, below 1 MiB.
//!
//! ```text
//! 0x0_0000  interrupt vectors, BIOS data area
//! 0x0_0600  INFO: what a payload is told (start info, Multiboot information, memory map, strings)
//! 0x0_7000  ZERO_PAGE, for Linux
//! 0x0_9000  PAGE_DIRECTORIES
//! 0x1_0000  SETUP: Linux's setup code, where it runs in real mode
//! 0x2_0000  CMDLINE, if it is long
//! 0x3_0000  STACK of a payload that is promised one
//! 0x7_0000  the firmware's own: once a payload runs, nothing of it is in use but PML4, until that has its own
//! 0x9_f000  PAGE_POINTERS
//! 0x9_fc00  EBDA
//! 0xf_0000  TABLES and what the BIOS services need; see `bios`
//! ```

use abi::firmware::TOUCHED;
use abi::layout::{self, Range};

/// What a payload is told.
pub const INFO: Range = Range::new(0x600, layout::BOOT_PAGE_TABLES.start);
/// Linux's `boot_params`; in [`INFO`], of which Linux needs nothing else.
pub const ZERO_PAGE: Range = layout::ZERO_PAGE;
/// Four page directories.
pub const PAGE_DIRECTORIES: Range =
    Range::new(layout::BOOT_PAGE_TABLES.start, layout::BOOT_PAGE_TABLES.start + 0x4000);
/// Page-directory-pointer table, of four entries: in a page that is touched anyway, as each that is touched for the first
/// time costs more than all that a start executes.
pub const PAGE_POINTERS: Range =
    Range::new(layout::EBDA.start & !0xfff, (layout::EBDA.start & !0xfff) + 0x20);
/// PML4, of one entry, likewise.
pub const PML4: Range = Range::new(layout::FIRMWARE_RAM.end() - 0x3000, layout::FIRMWARE_RAM.end() - 0x2fc0);
/// Linux's setup code.
pub const SETUP: Range = Range::new(0x1_0000, 0x2_0000);
/// Command line, where it is too long for [`INFO`].
pub const CMDLINE: Range = layout::CMDLINE;
/// A payload's stack.
pub const STACK: Range = Range::new(0x3_0000, 0x3_0000 + abi::unikernel::STACK_LEN);
/// What Jiffy's fw_cfg gives at once: [`abi::bundle`].
pub const BUNDLE: Range = Range::new(PML4.end(), PML4.end() + abi::bundle::LEN as u64);
/// A DMA descriptor, then a number that was read. The firmware's stack ends here.
pub const DMA: Range = Range::new(PML4.start - 0x40, PML4.start);
/// The directory of fw_cfg.
pub const DIRECTORY: Range = Range::new(layout::FIRMWARE_RAM.start, layout::FIRMWARE_RAM.start + 0x2000);
/// The start of the payload's file, or a script.
pub const HEAD: Range = Range::new(DIRECTORY.end(), DIRECTORY.end() + 0x8000);
/// The start of the archive of modules.
pub const ARCHIVE: Range = Range::new(HEAD.end(), HEAD.end() + abi::modules::HEAD_MAX as u64);
/// Tables that must be found between 0xe0000 and 1 MiB.
pub const TABLES: Range = Range::new(0xf_0000, 0xf_2000);

/// Whether a payload may not be loaded here: over what the firmware needs, or is promised to be there.
#[must_use]
pub const fn is_kept(start: u64, end: u64) -> bool {
    const fn meets(kept: Range, start: u64, end: u64) -> bool {
        start < kept.end() && kept.start < end
    }
    // Written out, and so in the code: a list would stand elsewhere in the ROM, in a page of its own.
    meets(Range::new(0, SETUP.start), start, end)
        || meets(CMDLINE, start, end)
        || meets(layout::FIRMWARE_RAM, start, end)
        || meets(Range::new(PAGE_POINTERS.start, 1 << 20), start, end)
}

/// What any start touches is where a VMM that knows expects it.
const _: () = {
    let touched =
        [Range::new(0, INFO.start + 1), PAGE_DIRECTORIES, DMA, PML4, BUNDLE, PAGE_POINTERS, layout::EBDA];
    let mut i = 0;
    while i < touched.len() {
        let mut found = false;
        let mut j = 0;
        while j < TOUCHED.len() {
            found |= TOUCHED[j].start <= touched[i].start && touched[i].start < TOUCHED[j].end();
            j += 1;
        }
        assert!(found);
        i += 1;
    }
};
const _: () = assert!(INFO.overlaps(ZERO_PAGE) && PAGE_DIRECTORIES.end() <= SETUP.start);
const _: () = assert!(PML4.start.is_multiple_of(0x1000) && BUNDLE.end() <= layout::FIRMWARE_RAM.end());
const _: () = assert!(ARCHIVE.end() + 0x1_0000 <= DMA.start, "room for the firmware's stack");
const _: () = assert!(STACK.end() <= layout::FIRMWARE_RAM.start);
