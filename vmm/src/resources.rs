//! What machine parts must not share: memory slots, interrupt lines, windows of addresses. One allocator hands
//! them out, and what it gave is saved state: a restored machine finds everything where it was.

use std::fmt;

use abi::layout::{self, Range};
use serde::{Deserialize, Serialize};
use vm_allocator::{AddressAllocator, AllocPolicy, IdAllocator};

use crate::state::Saved;

/// KVM's least number of memory slots on x86 (`KVM_USER_MEM_SLOTS` was 509 from Linux 3.14 to 5.11, then more).
const MEMORY_SLOTS: u32 = 509;
/// IOAPIC pins that no ISA device owns.
const FREE_LINES: (u32, u32) = (16, 23);
/// ISA lines that no device of a legacy machine owns.
const FREE_ISA_LINES: (u32, u32) = (10, 15);
/// GSIs beyond the IOAPIC's, for messages; KVM has 4096 in all.
const MESSAGES: (u64, u64) = (24, 4096 - 24);
/// Devices on the PCI bus; number 0 is where guests look for a host bridge, of which there is none.
const PCI_DEVICES: (u32, u32) = (1, 31);

/// There is none left of something.
#[derive(Debug, thiserror::Error)]
#[error("no {what} left: {}", match most { Some(most) => most.to_string(), None => source.to_string() })]
pub struct Exhausted {
    what: &'static str,
    most: Option<Most>,
    source: vm_allocator::Error,
}

impl Exhausted {
    fn new(what: &'static str, source: vm_allocator::Error) -> Self {
        Self { what, most: None, source }
    }

    /// As [`Exhausted::new`], of something that the devices a user asks for have used up.
    fn devices(what: &'static str, most: Most) -> impl FnOnce(vm_allocator::Error) -> Self {
        move |source| Self { what, most: Some(most), source }
    }
}

/// Why devices have used something up, and what to do.
#[derive(Clone, Copy, Debug)]
struct Most {
    /// What there is, first and last.
    range: (u32, u32),
    transport: &'static str,
    advice: &'static str,
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range: (first, last), transport, advice } = self;
        write!(f, "{} devices by {transport} are the most, {advice}", last - first + 1)
    }
}

/// The allocator.
#[derive(Debug, Serialize, Deserialize)]
pub struct Resources {
    slots: IdAllocator,
    lines: IdAllocator,
    isa_lines: IdAllocator,
    mmio: AddressAllocator,
    messages: AddressAllocator,
    pci_devices: IdAllocator,
    bars: AddressAllocator,
    ports: AddressAllocator,
    /// First address that no device has taken for its memory.
    device_memory: u64,
}

impl Saved for Resources {
    const NAME: &'static str = "resources";
    const VERSION: u16 = 6;
}

impl Resources {
    /// All of a new machine's.
    pub fn new() -> Result<Self, Exhausted> {
        let wrap = |what| move |source| Exhausted::new(what, source);
        Ok(Self {
            slots: IdAllocator::new(0, MEMORY_SLOTS - 1).map_err(wrap("memory slots"))?,
            lines: IdAllocator::new(FREE_LINES.0, FREE_LINES.1).map_err(wrap("interrupt lines"))?,
            isa_lines: IdAllocator::new(FREE_ISA_LINES.0, FREE_ISA_LINES.1).map_err(wrap("ISA lines"))?,
            mmio: AddressAllocator::new(layout::VIRTIO_MMIO.start, layout::VIRTIO_MMIO.len)
                .map_err(wrap("MMIO windows"))?,
            messages: AddressAllocator::new(MESSAGES.0, MESSAGES.1).map_err(wrap("interrupt messages"))?,
            pci_devices: IdAllocator::new(PCI_DEVICES.0, PCI_DEVICES.1).map_err(wrap("PCI devices"))?,
            bars: AddressAllocator::new(layout::PCI_MMIO.start, layout::PCI_MMIO.len)
                .map_err(wrap("PCI BARs"))?,
            ports: AddressAllocator::new(layout::PCI_PORTS.start, layout::PCI_PORTS.len)
                .map_err(wrap("PCI ports"))?,
            device_memory: 0,
        })
    }

    /// A memory slot.
    pub fn memory_slot(&mut self) -> Result<u32, Exhausted> {
        self.slots.allocate_id().map_err(|source| Exhausted::new("memory slot", source))
    }

    /// Gives a memory slot back.
    pub fn free_memory_slot(&mut self, slot: u32) -> Result<(), Exhausted> {
        self.slots.free_id(slot).map(|_| ()).map_err(|source| Exhausted::new("such memory slot", source))
    }

    /// A GSI of the IOAPIC.
    pub fn line(&mut self) -> Result<u32, Exhausted> {
        let most = Most { range: FREE_LINES, transport: "mmio", advice: "use --transport pci" };
        self.lines.allocate_id().map_err(Exhausted::devices("interrupt line", most))
    }

    /// An ISA line: a GSI that a guest with legacy interrupts knows by this number without being told.
    pub fn isa_line(&mut self) -> Result<u32, Exhausted> {
        let most =
            Most { range: FREE_ISA_LINES, transport: "mmio-cmdline", advice: "use mmio or pci for others" };
        self.isa_lines.allocate_id().map_err(Exhausted::devices("ISA line", most))
    }

    /// The first of `count` GSIs in a row that are no pins, for messages.
    pub fn messages(&mut self, count: u16) -> Result<u32, Exhausted> {
        let wrap = |source| Exhausted::new("interrupt messages", source);
        let range = self.messages.allocate(count.into(), 1, AllocPolicy::FirstMatch).map_err(wrap)?;
        Ok(range.start() as u32)
    }

    /// Where `len` bytes of memory of a device go, above RAM, which ends at `ram_end`: to a multiple of 1 GiB, so that it
    /// shares no large page with anything.
    pub fn device_memory(&mut self, len: u64, ram_end: u64) -> Range {
        let start = self.device_memory.max(ram_end).max(layout::HOLE.end()).next_multiple_of(1 << 30);
        self.device_memory = start + len;
        Range { start, len }
    }

    /// The number of a device on the PCI bus.
    pub fn pci_device(&mut self) -> Result<u8, Exhausted> {
        let most = Most { range: PCI_DEVICES, transport: "pci", advice: "use mmio for others" };
        let id = self.pci_devices.allocate_id().map_err(Exhausted::devices("place on the PCI bus", most))?;
        Ok(id as u8)
    }

    /// A window of `len` bytes (a power of two) for virtio-mmio, aligned to its length.
    pub fn mmio(&mut self, len: u64) -> Result<Range, Exhausted> {
        window(&mut self.mmio, len, "MMIO window")
    }

    /// A window of `len` bytes (a power of two) for a PCI BAR, aligned to its length.
    pub fn bar(&mut self, len: u64) -> Result<Range, Exhausted> {
        window(&mut self.bars, len, "PCI BAR")
    }

    /// `len` I/O ports (a power of two) for a PCI BAR, aligned to their number.
    pub fn ports(&mut self, len: u64) -> Result<Range, Exhausted> {
        window(&mut self.ports, len, "ports for a PCI BAR")
    }
}

fn window(from: &mut AddressAllocator, len: u64, what: &'static str) -> Result<Range, Exhausted> {
    let window = from.allocate(len, len, AllocPolicy::FirstMatch);
    let window = window.map_err(|source| Exhausted::new(what, source))?;
    Ok(Range { start: window.start(), len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nothing_is_given_twice_also_after_a_restore() {
        let mut resources = Resources::new().unwrap();
        let mut lines: BTreeSet<u32> = (0..4).map(|_| resources.line().unwrap()).collect();
        let first = resources.mmio(0x1000).unwrap();
        assert_eq!(resources.memory_slot().unwrap(), 0);
        let mut restored: Resources = crate::state::decode(&crate::state::encode(&resources)).unwrap();
        lines.extend((0..4).map(|_| restored.line().unwrap()));
        assert_eq!(lines, (16..24).collect());
        assert_eq!(
            restored.line().unwrap_err().to_string(),
            "no interrupt line left: 8 devices by mmio are the most, use --transport pci"
        );
        assert_eq!(resources.isa_line().unwrap(), 10);
        let mut restored: Resources = crate::state::decode(&crate::state::encode(&resources)).unwrap();
        let lines: Vec<u32> = (0..5).map(|_| restored.isa_line().unwrap()).collect();
        assert_eq!(lines, [11, 12, 13, 14, 15]);
        assert_eq!(
            restored.isa_line().unwrap_err().to_string(),
            "no ISA line left: 6 devices by mmio-cmdline are the most, use mmio or pci for others"
        );
        let second = restored.mmio(0x1000).unwrap();
        assert!(!first.overlaps(second) && second.start.is_multiple_of(0x1000));
        assert_eq!(restored.memory_slot().unwrap(), 1);
        restored.free_memory_slot(0).unwrap();
        assert_eq!(restored.memory_slot().unwrap(), 0);
        assert!(restored.mmio(u64::MAX).is_err());
        assert_eq!(restored.device_memory(1 << 21, 1 << 20), Range { start: 4 << 30, len: 1 << 21 });
        assert_eq!(restored.device_memory(1 << 21, 1 << 20).start, 5 << 30);
        assert_eq!((0..31).map(|_| restored.pci_device().unwrap()).last(), Some(31));
        assert_eq!(
            restored.pci_device().unwrap_err().to_string(),
            "no place on the PCI bus left: 31 devices by pci are the most, use mmio for others"
        );
    }
}
