//! The ROM: how it is entered, and how it reaches the machine. What it does is in the library.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "entry from assembly, port I/O and memory functions of a program without an OS"
)]

use core::arch::global_asm;
use core::panic::PanicInfo;

use abi::layout;
use firmware::ports::Ports;
use x86_64::instructions::{hlt, port::Port};
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
const TABLE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);
const PAGE: PageTableFlags = TABLE.union(PageTableFlags::HUGE_PAGE);

global_asm!(
    include_str!("entry.S"),
    REAL_MODE_BASE = const layout::ROM.end() - 0x1_0000,
    PAGE_TABLES = const layout::BOOT_PAGE_TABLES.start,
    CODE32 = const 1 << 3,
    CODE64 = const 2 << 3,
    DATA = const 3 << 3,
    GDT_CODE32 = const DescriptorFlags::KERNEL_CODE32.bits(),
    GDT_CODE64 = const DescriptorFlags::KERNEL_CODE64.bits(),
    GDT_DATA = const DescriptorFlags::KERNEL_DATA.bits(),
    CR0_PROTECTED = const CR0_PROTECTED.bits(),
    CR0_LONG = const CR0_LONG.bits(),
    CR4_LONG = const CR4_LONG.bits(),
    EFER = const EFER,
    EFER_LONG = const EferFlags::LONG_MODE_ENABLE.bits(),
    TABLE = const TABLE.bits(),
    PAGE = const PAGE.bits(),
    options(att_syntax)
);
global_asm!(include_str!("../../../../vmm/abi/src/memory.S"));

/// Called by entry.S, in the state that it describes.
#[unsafe(no_mangle)]
extern "sysv64" fn firmware_main() -> ! {
    firmware::main(&mut Machine);
    halt()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    firmware::panicked(&mut Machine, info);
    halt()
}

/// For ever: interrupts are off.
fn halt() -> ! {
    loop {
        hlt();
    }
}

/// The real ports.
struct Machine;

impl Ports for Machine {
    fn read_u8(&mut self, port: u16) -> u8 {
        // SAFETY: no device that the firmware knows changes its memory by a read of a port.
        unsafe { Port::new(port).read() }
    }

    fn write_u8(&mut self, port: u16, value: u8) {
        // SAFETY: no device that the firmware knows changes its memory by a write to a port.
        unsafe { Port::new(port).write(value) };
    }

    fn write_u16(&mut self, port: u16, value: u16) {
        // SAFETY: as above.
        unsafe { Port::new(port).write(value) };
    }
}
