//! Memory that is handed out once and never taken back, and shared with devices as it is: physical addresses are
//! virtual ones.
#![allow(unsafe_code, reason = "an allocator, and memory that devices write to")]

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

const PAGES: usize = 256;

#[repr(align(4096))]
struct Arena {
    bytes: UnsafeCell<[u8; PAGES * PAGE_SIZE]>,
    used: AtomicUsize,
}

// SAFETY: each byte is handed out at most once, by an atomic counter.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena { bytes: UnsafeCell::new([0; PAGES * PAGE_SIZE]), used: AtomicUsize::new(0) };

/// Zeroed pages; panics when there are none left.
fn pages(count: usize) -> NonNull<u8> {
    let first = ARENA.used.fetch_add(count, Ordering::Relaxed);
    assert!(first + count <= PAGES, "out of memory");
    // SAFETY: the pages are inside of the arena.
    let at = unsafe { ARENA.bytes.get().cast::<u8>().add(first * PAGE_SIZE) };
    NonNull::new(at).expect("a static has an address")
}

/// Zeroed memory; panics when there is none left.
#[must_use]
pub fn bytes(len: usize) -> &'static mut [u8] {
    let at = pages(len.div_ceil(PAGE_SIZE)).as_ptr();
    // SAFETY: the pages are handed out once, here, and hold zeros.
    unsafe { core::slice::from_raw_parts_mut(at, len) }
}

/// How devices reach memory here.
#[derive(Debug)]
pub struct Identity;

// SAFETY: pages are handed out once, aligned and zeroed; the first 4 GiB are mapped to themselves.
unsafe impl Hal for Identity {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let at = pages(count);
        (at.as_ptr() as PhysAddr, at)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _: usize) -> NonNull<u8> {
        assert!(paddr < 1 << 32, "a BAR above 4 GiB is not mapped");
        NonNull::new(paddr as *mut u8).expect("a BAR at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
