//! Writes that KVM puts off (`KVM_CAP_COALESCED_MMIO`): it notes them in a ring that all vCPUs share, and the guest goes on
//! without having left the kernel. When the ring is full, they are exits.
#![allow(unsafe_code, reason = "KVM fills the ring")]

use std::cell::UnsafeCell;
use std::fmt;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::memory::{PAGE, Shown};

/// Writes that the ring has room for; one place stays empty.
const ENTRIES: usize = (PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>();

/// A register of bits in memory that the guest reads, which it clears by writing them to an address.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Where it writes them, as a guest-physical address.
    pub at: u64,
    /// The page with the register.
    pub page: Shown,
    /// Where in the page.
    pub offset: u32,
}

/// What a VM's guests acknowledge without an exit.
#[derive(Debug, Default)]
pub struct Coalesced {
    ring: OnceLock<Ring>,
    registers: Mutex<Vec<Acknowledged>>,
}

impl Coalesced {
    /// Has the ring, which is mapped from a vCPU of the VM. Where that fails, writes stay exits.
    pub(super) fn map(&self, vcpu: impl AsFd) {
        if let Ok(ring) = Ring::map(vcpu) {
            // There is one already, the same.
            let _ = self.ring.set(ring);
        }
    }

    /// Takes note of a register, if there is a ring, and `connect` has KVM use it for writes at its address: once for each,
    /// since KVM takes the same again and again, a thousand in all.
    pub(super) fn add(&self, register: &Acknowledged, connect: impl FnOnce() -> bool) {
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = registers.iter().any(|known| known.at == register.at);
        if self.ring.get().is_some() && !known && connect() {
            registers.push(register.clone());
        }
    }

    /// Clears what was acknowledged up to now.
    pub fn settle(&self) {
        let Some(ring) = self.ring.get() else { return };
        // A guest that acknowledges after this look at the ring finds what its device wrote before.
        fence(Ordering::SeqCst);
        if ring.is_empty() {
            return;
        }
        let registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        // No more than fit in: a guest that goes on acknowledging holds nobody up.
        for _ in 0..ENTRIES {
            let Some((at, bits)) = ring.oldest() else { break };
            if let Some(register) = registers.iter().find(|register| register.at == at) {
                register.page.at(register.offset).fetch_and(!bits, Ordering::SeqCst);
            }
            // Not before: who finds the ring empty relies on the register.
            ring.advance();
        }
    }
}

/// `struct kvm_coalesced_mmio_ring`: the index of the oldest entry, which is ours to move, and that of the next, which is KVM's.
#[repr(C)]
struct Page {
    first: AtomicU32,
    last: AtomicU32,
    entries: [UnsafeCell<kvm_coalesced_mmio>; ENTRIES],
}

/// The page, as we have it mapped.
struct Ring(*mut Page);

// SAFETY: indices are atomics; an entry is read only by who holds the lock of `registers`, while it is not KVM's to write.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn map(vcpu: impl AsFd) -> rustix::io::Result<Self> {
        let offset = u64::from(KVM_COALESCED_MMIO_PAGE_OFFSET) * PAGE as u64;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let page = unsafe {
            mmap(ptr::null_mut(), PAGE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, vcpu, offset)
        }?;
        Ok(Self(page.cast()))
    }

    fn page(&self) -> &Page {
        // SAFETY: the page is mapped for as long as `self` is there, and any bytes are a `Page`.
        unsafe { &*self.0 }
    }

    fn is_empty(&self) -> bool {
        let Page { first, last, .. } = self.page();
        // In this order: the other way round, `last` could have gone round to where `first` was.
        let last = last.load(Ordering::SeqCst);
        first.load(Ordering::SeqCst) == last
    }

    /// The oldest write that is noted: its address, and the register.
    fn oldest(&self) -> Option<(u64, u32)> {
        if self.is_empty() {
            return None;
        }
        let Page { first, entries, .. } = self.page();
        let place = first.load(Ordering::SeqCst) as usize % ENTRIES;
        // SAFETY: KVM does not write the entry again before `first` is beyond it; before Linux 6.12 it may where a guest
        // overfills the ring, whose acknowledgements are then lost to it. Any bytes are an entry.
        let entry = unsafe { entries[place].get().read_volatile() };
        let [a, b, c, d, ..] = entry.data;
        // Registers are written as a whole (virtio 4.2.2.2).
        let bits = if entry.len == 4 { u32::from_le_bytes([a, b, c, d]) } else { 0 };
        Some((entry.phys_addr, bits))
    }

    /// Gives the oldest entry back to KVM.
    fn advance(&self) {
        let first = &self.page().first;
        first.store((first.load(Ordering::SeqCst) + 1) % ENTRIES as u32, Ordering::SeqCst);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the page is ours, and nobody has a reference to it any more.
        let _ = unsafe { munmap(self.0.cast(), PAGE) };
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Page { first, last, .. } = self.page();
        f.debug_struct("Ring").field("first", first).field("last", last).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::{hint, thread};

    use super::*;

    const AT: u64 = 0xd000_0064;

    fn coalesced() -> (Coalesced, Acknowledged) {
        let flags = MapFlags::PRIVATE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let page = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE, ProtFlags::READ | ProtFlags::WRITE, flags)
        };
        let coalesced = Coalesced::default();
        coalesced.ring.set(Ring(page.unwrap().cast())).unwrap();
        let register = Acknowledged { at: AT, page: Shown::new(1).unwrap().remove(0), offset: 0x60 };
        coalesced.add(&register, || true);
        (coalesced, register)
    }

    /// What KVM does: whether there was room.
    fn note(coalesced: &Coalesced, at: u64, bytes: &[u8]) -> bool {
        let Page { first, last, entries } = coalesced.ring.get().unwrap().page();
        let place = last.load(Ordering::SeqCst) as usize;
        let next = (place as u32 + 1) % ENTRIES as u32;
        if next == first.load(Ordering::SeqCst) {
            return false;
        }
        let mut entry = kvm_coalesced_mmio { phys_addr: at, len: bytes.len() as u32, ..Default::default() };
        entry.data[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: nobody reads the entry before `last` is beyond it.
        unsafe { entries[place].get().write(entry) };
        last.store(next, Ordering::SeqCst);
        true
    }

    #[test]
    fn what_is_acknowledged_is_cleared_when_somebody_asks() {
        let (coalesced, register) = coalesced();
        register.page.set(0x60, 3);
        assert!(note(&coalesced, AT, &[1, 0, 0, 0]));
        assert_eq!(register.page.at(0x60).load(Ordering::SeqCst), 3);
        coalesced.settle();
        assert_eq!(register.page.at(0x60).load(Ordering::SeqCst), 2);
        note(&coalesced, AT, &[2]);
        note(&coalesced, AT + 4, &[2, 0, 0, 0]);
        coalesced.settle();
        assert_eq!(register.page.at(0x60).load(Ordering::SeqCst), 2, "half a register, and another");
    }

    #[test]
    fn when_the_ring_is_found_empty_all_is_cleared() {
        let (coalesced, register) = coalesced();
        let (ring, status) = (coalesced.ring.get().unwrap(), register.page.at(0x60));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    coalesced.settle();
                }
            });
            let left = (0..2_000).filter(|_| {
                status.store(1, Ordering::SeqCst);
                assert!(note(&coalesced, AT, &[1, 0, 0, 0]));
                while !ring.is_empty() {
                    hint::spin_loop();
                }
                status.load(Ordering::SeqCst) != 0
            });
            let left = left.count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(left, 0, "another device's interrupt would not be raised");
        });
    }

    #[test]
    fn the_ring_goes_round_and_fills_up() {
        let (coalesced, register) = coalesced();
        for round in 0..5 {
            let room = (0..).take_while(|_| note(&coalesced, AT, &[4, 0, 0, 0])).count();
            assert_eq!(room, ENTRIES - 1, "round {round}");
            register.page.set(0x60, 7);
            coalesced.settle();
            assert_eq!(register.page.at(0x60).load(Ordering::SeqCst), 3);
            assert!(coalesced.ring.get().unwrap().is_empty());
        }
    }

    #[test]
    fn a_register_is_connected_once() {
        let (coalesced, register) = coalesced();
        coalesced.add(&register, || unreachable!("it is known"));
        let other = Acknowledged { at: AT + 0x1000, ..register };
        coalesced.add(&other, || false);
        assert_eq!(coalesced.registers.lock().unwrap().len(), 1, "KVM did not want it");
        Coalesced::default().add(&other, || unreachable!("there is no ring"));
    }
}
