//! Virtio devices at their transports.

use std::borrow::Cow;
use std::sync::Arc;
use std::{fmt, io};

use abi::layout::{self, Range};
use acpi_tables::Aml;

use super::Error;
use crate::acpi::VirtioMmio;
use crate::bus::BusDevice;
use crate::config::{MachineKind, TransportKind, VmSpec};
use crate::devices::event_loop::Source;
use crate::devices::pci::{Bars, ConfigPorts, Ecam, Function, RootBus, Space, Window};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::transport::mmio::{Mmio, WINDOW};
use crate::devices::virtio::transport::pci::{BAR, PORTS, VirtioPci, vectors};
use crate::devices::virtio::transport::{Core, DeviceSource};
use crate::interrupt::{IrqfdMessages, Pin};
use crate::kvm::Vm;
use crate::memory::{Mapping, Memory, Shown, Slot};
use crate::resources::{Exhausted, Resources};
use crate::state;
use crate::vcpu::Buses;

/// A device that is to be in a machine, with its files open.
pub struct Attachment {
    /// What it is called in saved state: its kind, and a number where there can be several.
    pub name: String,
    /// How the guest reaches it.
    pub transport: TransportKind,
    /// The device.
    pub device: Box<dyn VirtioDevice>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, transport, device } = self;
        let kind = device.kind();
        f.debug_struct("Attachment")
            .field("name", name)
            .field("transport", transport)
            .field("kind", &kind)
            .finish()
    }
}

/// The virtio devices of a machine.
#[derive(Default)]
pub(super) struct VirtioDevices {
    attached: Vec<Attached>,
    /// There only if a device is on it.
    bus: Option<RootBus>,
}

struct Attached {
    name: String,
    core: Arc<Core>,
    place: Place,
}

enum Place {
    Mmio { registers: Arc<Mmio>, window: Range, aml: Option<VirtioMmio> },
    Pci { function: Arc<VirtioPci>, number: u8 },
}

impl VirtioDevices {
    /// Gives devices their places, in their order: a machine that is restored finds the same ones. What they have in
    /// the guest's address space comes back as well: it has to outlive the VM. `is_linux` if it is known that nothing
    /// else will drive them.
    pub(super) fn attach(
        attachments: Vec<Attachment>,
        vm: &Vm,
        memory: &Memory,
        resources: &mut Resources,
        is_linux: bool,
    ) -> Result<(Self, Vec<Arc<Mapping>>), Error> {
        let mut places = Places { vm, memory, resources, is_linux, device_memory: Vec::new() };
        let windows = places.windows(&attachments)?;
        let attached: Vec<_> = (attachments.into_iter().zip(0..))
            .map(|(attachment, index)| places.attach(attachment, index, &windows))
            .collect::<Result<_, _>>()?;
        let device_memory = places.device_memory;
        let functions: Vec<_> = attached.iter().filter_map(Attached::function).collect();
        let bus = (!functions.is_empty()).then(|| RootBus::new(functions));
        Ok((Self { attached, bus }, device_memory))
    }

    /// Puts them on the buses.
    pub(super) fn insert(&self, buses: &mut Buses) -> Result<(), Error> {
        for attached in &self.attached {
            if let Place::Mmio { registers, window, .. } = &attached.place {
                buses.mmio.insert(*window, registers.clone())?;
            }
        }
        if let Some(bus) = &self.bus {
            let ecam = Range { start: layout::PCI_ECAM.start, len: Ecam::LEN };
            buses.mmio.insert(ecam, Arc::new(Ecam(bus.clone())))?;
            let window = |space, at: Range| Arc::new(Window::new(bus.clone(), space, at.start));
            buses.mmio.insert(layout::PCI_MMIO, window(Space::Memory, layout::PCI_MMIO))?;
            buses.ports.insert(layout::PCI_PORTS, window(Space::Ports, layout::PCI_PORTS))?;
        }
        Ok(())
    }

    /// Ports to configuration space, if there is a bus. Only a firmware gets them: Linux would use them.
    pub(super) fn config_ports(&self) -> Option<ConfigPorts> {
        self.bus.clone().map(ConfigPorts::new)
    }

    /// Whether there is a PCI bus.
    pub(super) fn has_pci(&self) -> bool {
        self.bus.is_some()
    }

    /// Whether there is a device whose driver acknowledges without an exit.
    pub(super) fn acknowledge_late(&self) -> bool {
        let late = |attached: &Attached| matches!(&attached.place, Place::Mmio { registers, .. } if registers.is_late());
        self.attached.iter().any(late)
    }

    pub(super) fn sources(&self) -> Vec<Box<dyn Source>> {
        let source = |attached: &Attached| -> Box<dyn Source> {
            Box::new(DeviceSource::new(Arc::clone(&attached.core)))
        };
        self.attached.iter().map(source).collect()
    }

    pub(super) fn aml(&self) -> impl Iterator<Item = &dyn Aml> {
        self.attached.iter().filter_map(|attached| match &attached.place {
            Place::Mmio { aml, .. } => aml.as_ref().map(|aml| aml as &dyn Aml),
            Place::Pci { .. } => None,
        })
    }

    pub(super) fn save(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        self.attached.iter().filter_map(|attached| {
            let saved = match &attached.place {
                Place::Mmio { registers, .. } => registers.save()?,
                Place::Pci { function, .. } => function.save(),
            };
            Some((attached.name.clone(), saved))
        })
    }

    /// Gives a device its state back, if there is one of this name.
    pub(super) fn restore(&self, name: &str, saved: &[u8]) -> Option<Result<(), state::Error>> {
        let attached = self.attached.iter().find(|attached| attached.name == name)?;
        Some(match &attached.place {
            Place::Mmio { registers, .. } => registers.restore(saved),
            Place::Pci { function, .. } => function.restore(saved),
        })
    }
}

/// Where a device over MMIO is: its window and its interrupt line.
fn registers(transport: TransportKind, resources: &mut Resources) -> Result<(Range, u32), Exhausted> {
    let window = resources.mmio(WINDOW)?;
    let gsi = match transport {
        TransportKind::MmioCmdline => resources.isa_line()?,
        TransportKind::Mmio | TransportKind::Pci => resources.line()?,
    };
    Ok((window, gsi))
}

/// The kernel's command line, with a word for each device that is to be found by it. They stand first, since what follows
/// `--` is not for the kernel.
///
/// The format is Linux's `virtio_mmio.device=SIZE@BASE:IRQ`. Places are those that the devices were attached at.
pub fn cmdline<'a>(spec: &'a VmSpec, attachments: &[Attachment]) -> Result<Cow<'a, str>, Error> {
    let transports = attachments.iter().map(|attachment| attachment.transport);
    if transports.clone().all(|transport| transport != TransportKind::MmioCmdline) {
        return Ok(Cow::Borrowed(&spec.boot.cmdline));
    }
    if spec.machine != MachineKind::Legacy {
        return Err(Error::NoIsaLines);
    }
    let mut words = words(transports)?;
    words.push_str(&spec.boot.cmdline);
    Ok(Cow::Owned(words))
}

fn words(transports: impl Iterator<Item = TransportKind>) -> Result<String, Exhausted> {
    let mut resources = Resources::new()?;
    let mut words = String::new();
    for transport in transports.filter(|&transport| transport != TransportKind::Pci) {
        let (Range { start, len }, irq) = registers(transport, &mut resources)?;
        if transport == TransportKind::MmioCmdline {
            words.push_str(&format!("virtio_mmio.device={len:#x}@{start:#x}:{irq} "));
        }
    }
    Ok(words)
}

/// Gives devices what they have of a machine.
struct Places<'a> {
    vm: &'a Vm,
    memory: &'a Memory,
    resources: &'a mut Resources,
    is_linux: bool,
    /// What of ours has to outlive the VM.
    device_memory: Vec<Arc<Mapping>>,
}

impl Places<'_> {
    /// A page for the registers of each device over MMIO, readable without an exit, as one slot: windows are in a row from
    /// the first.
    fn windows(&mut self, attachments: &[Attachment]) -> Result<Vec<Shown>, Error> {
        let mmio = attachments.iter().filter(|it| it.transport != TransportKind::Pci).count();
        let windows = Shown::new(mmio)?;
        if let Some(first) = windows.first() {
            let range = Range { start: layout::VIRTIO_MMIO.start, len: windows.len() as u64 * WINDOW };
            self.put(first.mapping(), range, true)?;
        }
        Ok(windows)
    }

    fn attach(&mut self, attachment: Attachment, index: u8, windows: &[Shown]) -> Result<Attached, Error> {
        let Attachment { name, transport, mut device } = attachment;
        if let Some(host) = device.host_memory() {
            let ram_end = self.memory.slots().iter().map(|slot| slot.range.end()).max().unwrap_or(0);
            let range = self.resources.device_memory(host.len, ram_end);
            self.put(&host.mapping, range, host.readonly)?;
            device.place(range.start);
        }
        let resources = &mut *self.resources;
        let (memory, doorbells) = (self.memory.clone(), Arc::new(self.vm.clone()));
        let (core, place) = match transport {
            TransportKind::Mmio | TransportKind::MmioCmdline => {
                let (window, gsi) = registers(transport, resources)?;
                let place = (window.start - layout::VIRTIO_MMIO.start) / WINDOW;
                let readable = windows.get(place as usize).cloned();
                let readable = readable.ok_or_else(|| io::Error::other("a window outside of the row"))?;
                let line = Arc::new(Pin::new(self.vm.clone(), gsi));
                // Others' drivers may read the status until it is clear.
                let late = self.is_linux.then(|| self.vm.clone());
                let registers = Mmio::new(device, memory, window, readable, line, doorbells, late)?;
                let registers = Arc::new(registers);
                let found = transport == TransportKind::Mmio;
                let aml = found.then_some(VirtioMmio { index, window, gsi });
                (registers.core().clone(), Place::Mmio { registers, window, aml })
            }
            TransportKind::Pci => {
                let number = resources.pci_device()?;
                // Linux knows both ways to ring; of others' drivers some fail on seeing ports.
                let ports = self.is_linux.then(|| resources.ports(PORTS)).transpose()?;
                let bars = Bars { memory: resources.bar(BAR)?, ports };
                let first = resources.messages(vectors(device.queue_sizes().len()))?;
                let messages = Box::new(IrqfdMessages::new(self.vm.clone(), first));
                let function = VirtioPci::new(device, memory, bars, messages, doorbells)?;
                let page = Shown::new(1)?.remove(0);
                let slot = self.put(page.mapping(), Ecam::function(number), true)?;
                let vm = self.vm.clone();
                // Fails for a slot that is not there.
                let hide = move || drop(vm.remove_memory(slot));
                let function = Arc::new(function.shown(page, Box::new(hide)));
                (function.core().clone(), Place::Pci { function, number })
            }
        };
        Ok(Attached { name, core, place })
    }

    /// Puts memory of ours into the guest's address space.
    fn put(&mut self, mapping: &Arc<Mapping>, range: Range, readonly: bool) -> Result<u32, Error> {
        let id = self.resources.memory_slot()?;
        let slot = Slot { range, host: mapping.as_ptr() as u64 };
        #[allow(unsafe_code, reason = "KVM reads and writes the process memory that a slot names")]
        // SAFETY: the machine keeps the mapping and drops it after the VM and the vCPUs.
        unsafe { self.vm.set_memory(id, &slot, readonly) }?;
        self.device_memory.push(Arc::clone(mapping));
        Ok(id)
    }
}

impl Attached {
    fn function(&self) -> Option<(u8, Arc<dyn Function>)> {
        match &self.place {
            Place::Mmio { .. } => None,
            Place::Pci { function, number } => Some((*number, function.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_where_devices_are() {
        use TransportKind::{Mmio, MmioCmdline, Pci};
        let start = layout::VIRTIO_MMIO.start;
        let at =
            |index: u64, irq: u32| format!("virtio_mmio.device=0x1000@{:#x}:{irq} ", start + index * WINDOW);
        assert_eq!(words([Mmio, Pci].into_iter()).unwrap(), "");
        let mixed = [MmioCmdline, Pci, Mmio, MmioCmdline].into_iter();
        assert_eq!(words(mixed).unwrap(), [at(0, 10), at(2, 11)].concat());
        let error = words([MmioCmdline; 7].into_iter()).unwrap_err().to_string();
        assert_eq!(
            error,
            "no ISA line left: 6 devices by mmio-cmdline are the most, use mmio or pci for others"
        );
    }
}
