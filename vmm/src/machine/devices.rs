//! The constructor table: every device of a machine, once. A new device adds its line here.

use std::sync::Arc;

use abi::layout::Range;
use abi::{fw_cfg, ports};
use acpi_tables::Aml;

use super::virtio::VirtioDevices;
use super::{Error, Wiring};
use crate::acpi::IsaDevice;
use crate::bus::BusDevice;
use crate::config::{MachineKind, VmSpec};
use crate::devices::console::{InputPort, Terminal};
use crate::devices::event_loop::Source;
use crate::devices::legacy::{AcpiPm, Cmos, DebugExit, FwCfg, I8042, JiffyPorts, Pvpanic, SerialPort};
use crate::devices::pci::ConfigPorts;
use crate::interrupt::Pin;
use crate::kvm::Vm;
use crate::memory::layout::RamLayout;
use crate::state;
use crate::vcpu::Buses;

/// One device: where it is, what ACPI says of it.
struct Entry {
    name: &'static str,
    ports: Range,
    device: Arc<dyn BusDevice>,
    aml: Option<IsaDevice>,
}

/// The devices of a machine.
pub struct Devices {
    table: Vec<Entry>,
    virtio: VirtioDevices,
    /// What takes input from the user.
    pub input: Arc<dyn InputPort>,
    /// Jiffy's own ports, for the exit status.
    pub jiffy: Arc<JiffyPorts>,
}

impl Devices {
    pub(super) fn new(spec: &VmSpec, vm: &Vm, wiring: &Wiring, virtio: VirtioDevices) -> Result<Self, Error> {
        let com1 = Arc::new(Pin::new(vm.clone(), ports::COM1_IRQ));
        let serial = Arc::new(SerialPort::new(com1, wiring.console.clone())?);
        let jiffy = Arc::new(JiffyPorts::new(Arc::clone(&wiring.timeline)));
        let legacy = spec.machine == MachineKind::Legacy;
        let low = legacy.then(|| RamLayout::new(spec.memory.size).low().len);
        let entry = |name, first: u16, count, device, aml| Entry {
            name,
            ports: Range { start: first.into(), len: count },
            device,
            aml,
        };
        let table = vec![
            entry("i8042", ports::I8042_COMMAND, 1, Arc::new(I8042), None),
            entry("cmos", ports::CMOS_INDEX, 2, Arc::new(Cmos::new(low)), Some(IsaDevice::RTC)),
            entry("serial", ports::COM1, 8, serial.clone(), Some(IsaDevice::COM1)),
            entry("pvpanic", ports::PVPANIC, 1, Arc::new(Pvpanic), Some(IsaDevice::PVPANIC)),
            entry("acpi-pm", ports::ACPI_SLEEP_CONTROL, AcpiPm::LEN, Arc::new(AcpiPm::new(legacy)), None),
            entry("jiffy", ports::JIFFY, ports::JIFFY_LEN.into(), jiffy.clone(), None),
        ];
        let input = match &wiring.input {
            Some(input) => Arc::clone(input) as Arc<dyn InputPort>,
            None => serial,
        };
        Ok(Self { table, virtio, input, jiffy })
    }

    /// Adds what only a firmware finds.
    pub(super) fn add_firmware(&mut self, fw_cfg: FwCfg) {
        let entry = |name, first: u16, len, device| {
            let ports = Range { start: first.into(), len };
            Entry { name, ports, device, aml: None }
        };
        self.table.push(entry("fw-cfg", fw_cfg::SELECTOR, FwCfg::LEN, Arc::new(fw_cfg)));
        self.table.push(entry("debug-exit", ports::DEBUG_EXIT, 1, Arc::new(DebugExit)));
        if let Some(config) = self.virtio.config_ports() {
            self.table.push(entry("pci-config", ports::PCI_CONFIG, ConfigPorts::LEN, Arc::new(config)));
        }
    }

    /// The devices at their places.
    pub(super) fn buses(&self) -> Result<Buses, Error> {
        let mut buses = Buses::default();
        for entry in &self.table {
            buses.ports.insert(entry.ports, Arc::clone(&entry.device))?;
        }
        self.virtio.insert(&mut buses)?;
        Ok(buses)
    }

    /// Tells the console's device the size of the terminal, if there is one.
    pub fn tell_size(&self) {
        if let Some((columns, rows)) = Terminal::size() {
            self.input.resize(columns, rows);
        }
    }

    /// What serves the virtio devices, for the device worker.
    #[must_use]
    pub fn sources(&self) -> Vec<Box<dyn Source>> {
        self.virtio.sources()
    }

    /// Whether there is a device whose driver acknowledges without an exit.
    pub(super) fn acknowledge_late(&self) -> bool {
        self.virtio.acknowledge_late()
    }

    /// Whether there is a PCI bus.
    pub(super) fn has_pci(&self) -> bool {
        self.virtio.has_pci()
    }

    /// What the devices say of themselves in the DSDT.
    pub(super) fn aml(&self) -> Vec<&dyn Aml> {
        let isa = self.table.iter().filter_map(|entry| entry.aml.as_ref().map(|aml| aml as &dyn Aml));
        isa.chain(self.virtio.aml()).collect()
    }

    pub(super) fn save(&self) -> Vec<(String, Vec<u8>)> {
        let own = |entry: &Entry| Some((entry.name.to_owned(), entry.device.save()?));
        self.table.iter().filter_map(own).chain(self.virtio.save()).collect()
    }

    pub(super) fn restore(&self, saved: &[(String, Vec<u8>)]) -> Result<(), Error> {
        for (name, bytes) in saved {
            let own = self.table.iter().find(|entry| entry.name == name);
            let restored = match own {
                Some(entry) => Some(entry.device.restore(bytes)),
                None => self.virtio.restore(name, bytes),
            };
            restored.ok_or(state::Error::Damaged { name: "devices" })??;
        }
        Ok(())
    }
}
