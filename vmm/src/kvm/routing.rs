//! The GSI routing table: which GSI is which pin of the interrupt controllers, and which is a message. KVM takes it as a
//! whole, so it has one owner.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use super::{Error, call};

/// Pins of the IOAPIC; the first 16 GSIs are also those of the two PICs.
const IOAPIC_PINS: u32 = 24;
const PIC_PINS: u32 = 8;

/// The messages by GSI. Until there is one, KVM's own table is in force: the pins alone.
#[derive(Debug, Default)]
pub(super) struct Routes(Mutex<BTreeMap<u32, (u64, u32)>>);

impl Routes {
    pub(super) fn set_message(&self, fd: &VmFd, gsi: u32, address: u64, data: u32) -> Result<(), Error> {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.insert(gsi, (address, data));
        let mut entries: Vec<_> = pins().collect();
        entries.extend(messages.iter().map(|(&gsi, &(address, data))| message(gsi, address, data)));
        let too_many =
            |_| Error::Call { call: "KVM_SET_GSI_ROUTING", source: kvm_ioctls::Error::new(libc::EINVAL) };
        let table = KvmIrqRouting::from_entries(&entries).map_err(too_many)?;
        fd.set_gsi_routing(&table).map_err(call("KVM_SET_GSI_ROUTING"))
    }
}

/// As KVM sets them up with the controllers (Linux `arch/x86/kvm/irq_comm.c`).
fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let ioapic = (0..IOAPIC_PINS).map(|pin| pin_of(pin, KVM_IRQCHIP_IOAPIC, pin));
    let pics = [(0, KVM_IRQCHIP_PIC_MASTER), (PIC_PINS, KVM_IRQCHIP_PIC_SLAVE)];
    let pics = pics
        .into_iter()
        .flat_map(|(first, chip)| (0..PIC_PINS).map(move |pin| pin_of(first + pin, chip, pin)));
    ioapic.chain(pics)
}

fn pin_of(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message(gsi: u32, address: u64, data: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
    entry.u.msi = kvm_irq_routing_msi { address_lo, address_hi, data, ..Default::default() };
    entry
}
