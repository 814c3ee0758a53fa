//! One VM: memory slots, the interrupt controllers, vCPUs.
#![allow(unsafe_code, reason = "KVM reads and writes the process memory that a slot names")]

use std::sync::Arc;

use abi::layout::Range;
use kvm_bindings::{KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::coalesced::{Acknowledged, Coalesced};
use super::routing::Routes;
use super::state::IrqchipState;
use super::{Error, Vcpu, call};
use crate::memory::Slot;

/// A VM. Clones share it; it ends with the last of them and of its vCPUs.
#[derive(Clone, Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    routes: Arc<Routes>,
    coalesced: Arc<Coalesced>,
}

impl Vm {
    pub(super) fn new(fd: VmFd) -> Self {
        Self { fd: Arc::new(fd), routes: Arc::default(), coalesced: Arc::default() }
    }

    /// Tells KVM where it may keep its own pages (Intel without unrestricted guests needs them; others ignore it).
    pub fn set_private_pages(&self) -> Result<(), Error> {
        let range = abi::layout::KVM_PRIVATE;
        self.fd.set_identity_map_address(range.start).map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        self.fd.set_tss_address((range.start + 0x1000) as usize).map_err(call("KVM_SET_TSS_ADDR"))
    }

    /// Creates PIC, IOAPIC and, with each vCPU, its local APIC, in the kernel.
    pub fn create_irqchip(&self) -> Result<(), Error> {
        self.fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))
    }

    /// Creates the 8254 timer and the port 0x61 that goes with it.
    pub fn create_pit(&self) -> Result<(), Error> {
        let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        self.fd.create_pit2(config).map_err(call("KVM_CREATE_PIT2"))
    }

    /// Puts memory of ours at a guest-physical address.
    ///
    /// # Safety
    ///
    /// The mapping that `region.host` names has to stay for as long as the VM.
    pub unsafe fn set_memory(&self, slot: u32, region: &Slot, read_only: bool) -> Result<(), Error> {
        let Range { start, len } = region.range;
        let region = kvm_userspace_memory_region {
            slot,
            flags: if read_only { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: start,
            memory_size: len,
            userspace_addr: region.host,
        };
        // SAFETY: the caller vouches for the mapping.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(|source| Error::Memory {
            start,
            len,
            source,
        })
    }

    /// Takes back what [`Vm::set_memory`] did; then accesses there are exits.
    pub fn remove_memory(&self, slot: u32) -> Result<(), Error> {
        let region = kvm_userspace_memory_region { slot, ..kvm_userspace_memory_region::default() };
        // SAFETY: a slot without bytes names no memory.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(|source| Error::Memory {
            start: 0,
            len: 0,
            source,
        })
    }

    /// Raises a pin of the interrupt controllers and lowers it again: one interrupt of an edge-triggered line.
    pub fn pulse(&self, gsi: u32) -> Result<(), Error> {
        [true, false]
            .into_iter()
            .try_for_each(|level| self.fd.set_irq_line(gsi, level))
            .map_err(call("KVM_IRQ_LINE"))
    }

    /// Makes a write to `event` raise the interrupt `gsi`.
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), Error> {
        self.fd.register_irqfd(event, gsi).map_err(call("KVM_IRQFD"))
    }

    /// Makes the GSI `gsi`, none of the IOAPIC's, stand for a message.
    pub fn route_message(&self, gsi: u32, address: u64, data: u32) -> Result<(), Error> {
        self.routes.set_message(&self.fd, gsi, address, data)
    }

    /// Makes writes at `addr` write to `event` instead of leaving the guest: those of the four bytes `value`, or those
    /// of any value and length.
    pub fn register_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoEventAddress,
        value: Option<u32>,
    ) -> Result<(), Error> {
        match value {
            Some(value) => self.fd.register_ioevent(event, &addr, value),
            None => self.fd.register_ioevent(event, &addr, NoDatamatch),
        }
        .map_err(call("KVM_IOEVENTFD"))
    }

    /// Takes back what [`Vm::register_ioeventfd`] did.
    pub fn unregister_ioeventfd(
        &self,
        event: &EventFd,
        addr: IoEventAddress,
        value: Option<u32>,
    ) -> Result<(), Error> {
        match value {
            Some(value) => self.fd.unregister_ioevent(event, &addr, value),
            None => self.fd.unregister_ioevent(event, &addr, NoDatamatch),
        }
        .map_err(call("KVM_IOEVENTFD"))
    }

    /// Makes it possible to acknowledge without an exit, by a ring that each vCPU of the VM has.
    pub fn map_coalesced(&self, vcpu: &Vcpu) {
        if self.fd.check_extension_int(Cap::CoalescedMmio) > 0 {
            self.coalesced.map(vcpu);
        }
    }

    /// From now on, what the guest writes there is done with the next [`Vm::settle`]; where that cannot be had, it stays an
    /// exit.
    pub fn acknowledge_late(&self, register: &Acknowledged) {
        let connect = || self.fd.register_coalesced_mmio(IoEventAddress::Mmio(register.at), 4).is_ok();
        self.coalesced.add(register, connect);
    }

    /// Clears what guests have acknowledged up to now.
    pub fn settle(&self) {
        self.coalesced.settle();
    }

    /// Creates the vCPU whose APIC id is `id`.
    pub fn create_vcpu(&self, id: u8) -> Result<Vcpu, Error> {
        Ok(Vcpu::new(id, self.fd.create_vcpu(id.into()).map_err(call("KVM_CREATE_VCPU"))?))
    }

    /// The state of interrupt controllers, timer and clock.
    pub fn save_irqchip(&self, pit: bool) -> Result<IrqchipState, Error> {
        IrqchipState::save(&self.fd, pit)
    }

    /// Takes back what [`Vm::save_irqchip`] gave.
    pub fn restore_irqchip(&self, state: &IrqchipState) -> Result<(), Error> {
        state.restore(&self.fd)
    }
}
