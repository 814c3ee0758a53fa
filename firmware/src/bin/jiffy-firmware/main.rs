//! The ROM: how it is entered and left, and how it reaches the machine. What it does is in the library.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "entry from assembly, port I/O and memory functions of a program without an OS"
)]

mod hardware;

use core::arch::global_asm;
use core::panic::PanicInfo;

use abi::{layout, unikernel};
use firmware::bios;
use firmware::handover::Entry;
use firmware::places::{PAGE_DIRECTORIES, PAGE_POINTERS, PML4};
use hardware::Hardware;
use x86_64::instructions::hlt;
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use x86_64::structures::gdt::DescriptorFlags;
use x86_64::structures::paging::PageTableFlags;

/// `MSR_EFER` (AMD APM 2, 3.1.7).
const EFER: u32 = 0xc000_0080;
/// Caches on (`CACHE_DISABLE` and `NOT_WRITE_THROUGH` clear), floating point and SSE not emulated.
const CR0_PROTECTED: Cr0Flags = Cr0Flags::PROTECTED_MODE_ENABLE
    .union(Cr0Flags::MONITOR_COPROCESSOR)
    .union(Cr0Flags::EXTENSION_TYPE)
    .union(Cr0Flags::NUMERIC_ERROR);
const CR0_LONG: Cr0Flags = CR0_PROTECTED.union(Cr0Flags::WRITE_PROTECT).union(Cr0Flags::PAGING);
const CR4_LONG: Cr4Flags =
    Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.union(Cr4Flags::OSFXSR).union(Cr4Flags::OSXMMEXCPT_ENABLE);
/// What PVH asks for, and Multiboot too.
const CR0_PAYLOAD: Cr0Flags = Cr0Flags::PROTECTED_MODE_ENABLE.union(Cr0Flags::EXTENSION_TYPE);
const TABLE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);
const PAGE: PageTableFlags = TABLE.union(PageTableFlags::HUGE_PAGE);
const CODE32: u16 = 1 << 3;
const CODE64: u16 = 2 << 3;
const DATA: u16 = 3 << 3;
/// As Linux's 32-bit boot protocol wants it.
const PAYLOAD_CODE32: u16 = 2 << 3;
const _: () = assert!(CODE64 == unikernel::CODE_SELECTOR && DATA == unikernel::DATA_SELECTOR);

const CODE16: u16 = 4 << 3;
const DATA16: u16 = 5 << 3;
/// A segment as real mode has it: of 64 KiB. (The code's base, 0xf0000, is added where it is used.)
const GDT_DATA16: DescriptorFlags = DescriptorFlags::KERNEL_DATA
    .difference(DescriptorFlags::GRANULARITY.union(DescriptorFlags::DEFAULT_SIZE))
    .difference(DescriptorFlags::LIMIT_16_19);
const GDT_CODE16: DescriptorFlags = GDT_DATA16.union(DescriptorFlags::EXECUTABLE);

global_asm!(
    include_str!("entry.S"),
    REAL_MODE_BASE = const layout::ROM.end() - 0x1_0000,
    PML4 = const PML4.start,
    PAGE_POINTERS = const PAGE_POINTERS.start,
    PAGE_DIRECTORIES = const PAGE_DIRECTORIES.start,
    CODE64 = const CODE64,
    DATA = const DATA,
    GDT_CODE32 = const DescriptorFlags::KERNEL_CODE32.bits(),
    GDT_CODE64 = const DescriptorFlags::KERNEL_CODE64.bits(),
    GDT_DATA = const DescriptorFlags::KERNEL_DATA.bits(),
    CR0_LONG = const CR0_LONG.bits(),
    CR4_LONG = const CR4_LONG.bits(),
    EFER = const EFER,
    EFER_LONG = const EferFlags::LONG_MODE_ENABLE.bits(),
    TABLE = const TABLE.bits(),
    PAGE = const PAGE.bits(),
    options(att_syntax)
);
global_asm!(
    include_str!("exit.S"),
    DATA = const DATA,
    PAYLOAD_CODE32 = const PAYLOAD_CODE32,
    GDT_CODE32 = const DescriptorFlags::KERNEL_CODE32.bits(),
    GDT_DATA = const DescriptorFlags::KERNEL_DATA.bits(),
    CR0_PAYLOAD = const CR0_PAYLOAD.bits(),
    EFER = const EFER,
    options(att_syntax)
);
global_asm!(
    include_str!("bios.S"),
    REAL_MODE_BASE = const layout::ROM.end() - 0x1_0000,
    STATE = const bios::STATE.start,
    BIOS_TABLES = const bios::TABLES.start,
    CODE32 = const CODE32,
    CODE64 = const CODE64,
    DATA = const DATA,
    CODE16 = const CODE16,
    DATA16 = const DATA16,
    GDT_CODE32 = const DescriptorFlags::KERNEL_CODE32.bits(),
    GDT_CODE64 = const DescriptorFlags::KERNEL_CODE64.bits(),
    GDT_DATA = const DescriptorFlags::KERNEL_DATA.bits(),
    GDT_CODE16 = const GDT_CODE16.bits() | 0xf_0000 << 16,
    GDT_DATA16 = const GDT_DATA16.bits(),
    CR0_PROTECTED = const CR0_PROTECTED.bits(),
    CR0_LONG = const CR0_LONG.bits(),
    CR0_REAL = const Cr0Flags::EXTENSION_TYPE.bits(),
    CR4_LONG = const CR4_LONG.bits(),
    EFER = const EFER,
    EFER_LONG = const EferFlags::LONG_MODE_ENABLE.bits(),
    options(att_syntax)
);
global_asm!(include_str!("../../../../vmm/abi/src/memory.S"));

unsafe extern "sysv64" {
    fn enter_protected(eip: u32, eax: u32, ebx: u32, esi: u32) -> !;
    fn enter_real() -> !;
    fn enter_long(rip: u64, rdi: u64, rsi: u64, rsp: u64) -> !;
}

/// Called by entry.S, in the state that it describes.
#[unsafe(no_mangle)]
extern "sysv64" fn firmware_main() -> ! {
    // SAFETY: this is called once, in the state that entry.S describes.
    let mut machine = unsafe { Hardware::new() };
    match firmware::main(&mut machine) {
        // SAFETY: the library has prepared what is entered, and what is entered does not come back.
        Some(Entry::Protected { eip, eax, ebx, esi }) => unsafe { enter_protected(eip, eax, ebx, esi) },
        // SAFETY: as above.
        Some(Entry::Long { rip, rdi, rsi, rsp }) => unsafe { enter_long(rip, rdi, rsi, rsp) },
        // SAFETY: as above; where it goes is in memory.
        Some(Entry::Real { .. }) => unsafe { enter_real() },
        None => halt(),
    }
}

/// Called by bios.S, in the state that it describes.
#[unsafe(no_mangle)]
extern "sysv64" fn bios_service(frame: u64) {
    // SAFETY: the payload waits until this is done, and what it has is no Rust object.
    let mut machine = unsafe { Hardware::new() };
    bios::service(&mut machine, frame);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // SAFETY: whoever panicked does not go on.
    let mut machine = unsafe { Hardware::new() };
    firmware::panicked(&mut machine, info);
    halt()
}

/// For ever: interrupts are off.
fn halt() -> ! {
    loop {
        hlt();
    }
}
