//! The real machine.

use core::arch::asm;
use core::ptr;
use core::slice;

use firmware::machine::Machine;
use firmware::places::{PAGE_DIRECTORIES, PAGE_POINTERS};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{PAGE, TABLE};

/// The real machine. There is one, and the one processor that runs has it.
pub struct Hardware {
    _private: (),
}

impl Hardware {
    /// The machine.
    ///
    /// # Safety
    ///
    /// The state is as entry.S describes, no other is in use, and no Rust object lies where the library writes: below
    /// 1 MiB but on the stack, in RAM above, and in registers of devices.
    pub const unsafe fn new() -> Self {
        Self { _private: () }
    }
}

const PAGE_BITS: u32 = 21;
const PAGES_IN_DIRECTORY: u64 = 512;
const PAGE_LEN: u64 = 1 << PAGE_BITS;
/// The last page below 4 GiB.
const LAST_PAGE: u64 = (1 << (32 - PAGE_BITS)) - 1;
/// The first page directory; those of all 4 GiB stand one behind the other.
const DIRECTORY: u64 = PAGE_DIRECTORIES.start;
/// The last one.
const LAST_DIRECTORY: u64 = DIRECTORY + 3 * 0x1000;

impl Hardware {
    /// Maps a range that is not empty.
    #[inline(never)]
    fn map_more(&mut self, addr: u64, len: u64) {
        // Four at once; the neighbours may as well be mapped.
        let (first, last) = (addr >> PAGE_BITS & !3, ((addr + len - 1) >> PAGE_BITS).min(LAST_PAGE) | 3);
        // From here on the first directory and the last have to be two.
        if last >= PAGES_IN_DIRECTORY - 1 {
            self.write(LAST_DIRECTORY + (PAGES_IN_DIRECTORY - 1) * 8, LAST_PAGE << PAGE_BITS | PAGE.bits());
            self.write(PAGE_POINTERS.start + 3 * 8, LAST_DIRECTORY | TABLE.bits());
        }
        let entry = first << PAGE_BITS | PAGE.bits();
        let two = [entry, entry + PAGE_LEN];
        // All that compilers make of this loop takes twice as many instructions, and it is the longest of a start.
        // SAFETY: the page directories are no Rust object's.
        unsafe {
            asm!("movups {entries}, [{two}]", "movups {step}, [{step_of}]",
                "2:", "movups [{at}], {entries}", "paddq {entries}, {step}", "movups [{at} + 16], {entries}",
                "paddq {entries}, {step}", "add {at}, 32", "cmp {at}, {end}", "jb 2b",
                two = in(reg) &two, step_of = in(reg) &[2 * PAGE_LEN; 2], entries = out(xmm_reg) _, step = out(xmm_reg) _,
                at = inout(reg) DIRECTORY + first * 8 => _, end = in(reg) DIRECTORY + last * 8,
                options(nostack));
        }
        // What the processor may have kept of entries that held anything.
        // SAFETY: CR3 is written with what it holds.
        unsafe {
            asm!("mov {cr3}, cr3", "mov cr3, {cr3}", cr3 = out(reg) _, options(nostack, preserves_flags));
        };
    }
}

const fn at<T>(addr: u64) -> *mut T {
    ptr::with_exposed_provenance_mut(addr as usize)
}

// Not those of the crate x86_64: they tell the compiler that no memory is involved, and there is with DMA.
macro_rules! port {
    ($input:ident, $output:ident, $type:ty, $in:literal, $out:literal, $register:tt) => {
        fn $input(&mut self, port: u16) -> $type {
            let value;
            // SAFETY: whatever a device changes in memory is what the library asked it for.
            unsafe { asm!($in, out($register) value, in("dx") port, options(nostack, preserves_flags)) };
            value
        }

        fn $output(&mut self, port: u16, value: $type) {
            // SAFETY: as above.
            unsafe { asm!($out, in("dx") port, in($register) value, options(nostack, preserves_flags)) };
        }
    };
}

macro_rules! mmio {
    ($read:ident, $write:ident, $type:ty) => {
        fn $read(&mut self, addr: u64) -> $type {
            // SAFETY: the library reads registers of devices, which are no Rust objects.
            unsafe { at::<$type>(addr).read_volatile() }
        }

        fn $write(&mut self, addr: u64, value: $type) {
            // SAFETY: as above.
            unsafe { at::<$type>(addr).write_volatile(value) };
        }
    };
}

impl Machine for Hardware {
    port!(in_u8, out_u8, u8, "in al, dx", "out dx, al", "al");
    port!(in_u16, out_u16, u16, "in ax, dx", "out dx, ax", "ax");
    port!(in_u32, out_u32, u32, "in eax, dx", "out dx, eax", "eax");

    fn in_bytes(&mut self, port: u16, to: u64, len: usize) {
        // SAFETY: the library reads to memory that is no Rust object's.
        unsafe {
            asm!("rep insb", in("dx") port, inout("rdi") to => _, inout("rcx") len => _,
                options(nostack, preserves_flags));
        }
    }

    #[inline]
    fn map(&mut self, addr: u64, len: u64) {
        if len > 0 && addr + len > PAGE_LEN {
            self.map_more(addr, len);
        }
    }

    fn read<T: FromBytes>(&self, addr: u64) -> T {
        // SAFETY: the address is mapped, and any bytes are a value of this type.
        unsafe { at::<T>(addr).read_unaligned() }
    }

    fn write<T: IntoBytes + Immutable>(&mut self, addr: u64, value: T) {
        // SAFETY: the address is mapped, and no Rust object's.
        unsafe { at::<T>(addr).write_unaligned(value) };
    }

    fn bytes(&self, addr: u64, len: usize) -> &[u8] {
        // SAFETY: the address is mapped; only methods that take the machine mutably change what is there.
        unsafe { slice::from_raw_parts(at(addr), len) }
    }

    fn write_bytes(&mut self, addr: u64, bytes: &[u8]) {
        // SAFETY: the address is mapped, and no Rust object's.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at(addr), bytes.len()) };
    }

    fn copy(&mut self, from: u64, to: u64, len: usize) {
        // SAFETY: both ranges are mapped, and no Rust object's; the library copies to where they do not overlap.
        unsafe { ptr::copy_nonoverlapping(at::<u8>(from).cast_const(), at(to), len) };
    }

    fn fill_u32(&mut self, addr: u64, value: u32, count: usize) {
        // Not by a pointer: none that Rust knows can be null.
        // SAFETY: the range is mapped, and no Rust object's.
        unsafe {
            asm!("rep stosd", in("eax") value, inout("rdi") addr => _, inout("rcx") count => _,
                options(nostack, preserves_flags));
        }
    }

    fn clear(&mut self, addr: u64, len: usize) {
        // SAFETY: the range is mapped, and no Rust object's.
        unsafe { ptr::write_bytes(at::<u8>(addr), 0, len) };
    }

    mmio!(mmio_read_u8, mmio_write_u8, u8);
    mmio!(mmio_read_u16, mmio_write_u16, u16);
    mmio!(mmio_read_u32, mmio_write_u32, u32);
}
