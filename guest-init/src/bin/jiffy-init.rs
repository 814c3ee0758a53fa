//! Entry, heap and panic of `jiffy-init`; what it does is in the library.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "process entry, allocator and memory functions of a program without a C library"
)]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::panic::PanicInfo;
use core::ptr;

global_asm!(include_str!("../../../vmm/abi/src/memory.S"));

/// Where the kernel enters (System V ABI, AMD64 supplement, 3.4.1): the stack pointer is at `argc`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "call {entry}", entry = sym entry)
}

extern "C" fn entry(stack: *const usize) -> ! {
    // `stack` is the initial stack pointer: `argc`, that many strings, a null pointer, the environment's strings, a
    // null pointer. They stay as they are for the life of the process.
    let args = stack.wrapping_add(1).cast::<*const c_char>();
    // SAFETY: `argc` is there.
    let argc = unsafe { *stack };
    // SAFETY: the arguments begin after `argc` and end with a null pointer.
    let arguments = unsafe { strings_at(args) };
    // SAFETY: the environment begins after that null pointer and ends with one.
    let environment = unsafe { strings_at(args.wrapping_add(argc + 1)) };
    guest_init::main(arguments, environment)
}

/// # Safety
///
/// `array` must be an array of pointers to C strings that ends with a null pointer; both live for ever.
unsafe fn strings_at(array: *const *const c_char) -> impl Iterator<Item = &'static CStr> + Clone {
    (0..).map_while(move |i| {
        // SAFETY: no entry before this one was null, so this one is there.
        let string = unsafe { *array.wrapping_add(i) };
        // SAFETY: a string that is not null is a C string, by contract.
        (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) })
    })
}

/// A heap that only grows: init handles a few strings and files once. Its pages cost nothing until touched.
#[global_allocator]
static HEAP: Heap = Heap { memory: UnsafeCell::new([0; HEAP_LEN]), used: UnsafeCell::new(0) };

const HEAP_LEN: usize = 4 << 20;

#[repr(align(4096))]
struct Heap {
    memory: UnsafeCell<[u8; HEAP_LEN]>,
    used: UnsafeCell<usize>,
}

// SAFETY: the program has one thread and no signal handler.
unsafe impl Sync for Heap {}

// SAFETY: blocks are cut from `memory` one after the other, each aligned and used once, except that the last one
// may grow in place.
unsafe impl GlobalAlloc for Heap {
    /// # Safety
    ///
    /// As the trait says.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: nothing else refers to `used` while this runs.
        let used = unsafe { &mut *self.used.get() };
        let start = used.next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if end <= HEAP_LEN => *used = end,
            _ => return ptr::null_mut(),
        }
        self.memory.get().cast::<u8>().wrapping_add(start)
    }

    /// # Safety
    ///
    /// As the trait says.
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    /// # Safety
    ///
    /// As the trait says.
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: nothing else refers to `used` while this runs.
        let used = unsafe { &mut *self.used.get() };
        let start = old.addr() - self.memory.get().addr();
        if start + layout.size() == *used && size <= HEAP_LEN - start {
            *used = start + size;
            return old;
        }
        // SAFETY: the caller promises that `size` and the alignment make a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the caller promises that `size` is not zero.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: the two blocks are distinct and hold at least that many bytes.
            unsafe { ptr::copy_nonoverlapping(old, new, layout.size().min(size)) };
        }
        new
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    guest_init::panicked(info)
}
