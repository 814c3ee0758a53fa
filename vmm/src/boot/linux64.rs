//! What a Linux kernel finds at its 64-bit entry (Linux, `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"):
//! the zero page in RSI, a flat GDT, paging on with the kernel, the zero page and the command line identity-mapped.

use abi::layout;
use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;
use x86_64::structures::gdt::DescriptorFlags;
use x86_64::structures::paging::PageTableFlags;

use super::place::MemoryWrite;
use super::{Arguments, BootCpu};

/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// Set in `loadflags`, it tells the kernel proper that its addresses were randomised.
const KASLR_FLAG: u8 = 1 << 1;
const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// Top of the stack at the entry. Linux sets up its own before it uses any; other kernels find one page here.
const STACK_TOP: u64 = layout::BOOT_PAGE_TABLES.start;

/// The header that a `vmlinux` lost when it was linked: what Linux looks at after its entry.
#[must_use]
pub fn plain_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 2047,
        ..setup_header::default()
    }
}

/// The memory and the registers for a kernel that occupies addresses up to `kernel_end` and is entered at `entry`.
pub fn prepare(
    mut setup: setup_header,
    kaslr: bool,
    entry: u64,
    kernel_end: u64,
    arguments: &Arguments,
) -> (Vec<MemoryWrite>, BootCpu) {
    setup.type_of_loader = LOADER_UNDEFINED;
    setup.loadflags = setup.loadflags & !KASLR_FLAG | if kaslr { KASLR_FLAG } else { 0 };
    setup.cmd_line_ptr = layout::CMDLINE.start as u32;
    if let Some(initrd) = arguments.initrd {
        // Below 3 GiB, so that `ext_ramdisk_image` and `ext_ramdisk_size` stay 0.
        setup.ramdisk_image = initrd.start as u32;
        setup.ramdisk_size = initrd.len as u32;
    }
    let mut params =
        boot_params { hdr: setup, acpi_rsdp_addr: arguments.rsdp.unwrap_or(0), ..boot_params::default() };
    for (slot, entry) in params.e820_table.iter_mut().zip(&arguments.e820) {
        *slot = boot_e820_entry { addr: entry.range.start, size: entry.range.len, r#type: entry.kind as u32 };
        params.e820_entries += 1;
    }
    let mut writes = vec![
        MemoryWrite::bytes(layout::ZERO_PAGE.start, params.as_slice().to_vec()),
        MemoryWrite::bytes(layout::BOOT_GDT.start, words(gdt())),
        arguments.cmdline_write(),
    ];
    writes.extend(page_tables(kernel_end.max(layout::HIGH_RAM_START)));
    let cr3 = layout::BOOT_PAGE_TABLES.start;
    (writes, BootCpu::Long { rip: entry, rsp: STACK_TOP, cr3, rsi: layout::ZERO_PAGE.start })
}

/// The GDT that the protocol asks for: nothing, nothing, `__BOOT_CS` 0x10, `__BOOT_DS` 0x18.
fn gdt() -> [u64; 4] {
    [0, 0, DescriptorFlags::KERNEL_CODE64.bits(), DescriptorFlags::KERNEL_DATA.bits()]
}

/// Tables that map addresses from 0 to `end` (at most 3 GiB) to themselves.
fn page_tables(end: u64) -> [MemoryWrite; 3] {
    // Marked as used from the start, which spares the processor a write to each entry.
    let used = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::ACCESSED;
    let large = used | PageTableFlags::DIRTY | PageTableFlags::HUGE_PAGE;
    let pml4 = layout::BOOT_PAGE_TABLES.start;
    let pointers = pml4 + PAGE;
    let directories = pointers + PAGE;
    let gibs = end.div_ceil(GIB);
    [
        MemoryWrite::bytes(pml4, words([pointers | used.bits()])),
        MemoryWrite::bytes(pointers, words((0..gibs).map(|gib| (directories + gib * PAGE) | used.bits()))),
        MemoryWrite::bytes(
            directories,
            words((0..end.div_ceil(LARGE_PAGE)).map(|page| (page * LARGE_PAGE) | large.bits())),
        ),
    ]
}

fn words(entries: impl IntoIterator<Item = u64>) -> Vec<u8> {
    entries.into_iter().flat_map(u64::to_le_bytes).collect()
}
