//! The DSDT, and the AML of devices on the ISA bus.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use abi::layout::{self, Range};
use abi::ports;
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink, aml};

/// A device at fixed ports: its AML is a `Device` with `_HID`, `_UID` and `_CRS`.
///
/// With hardware-reduced ACPI this is how Linux finds even a 16550 at its customary address
/// (`SERIAL_8250_PNP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaDevice {
    /// Name in the namespace: four characters `A-Z`, `0-9`, `_`, no digit first.
    pub name: &'static str,
    /// Hardware ID: seven characters (`PNP0501`) for an EISA ID, else an ACPI ID (`QEMU0001`).
    pub hid: &'static str,
    /// Tells devices with the same hardware ID apart.
    pub uid: u8,
    /// First port, and how many.
    pub ports: (u16, u8),
    /// Interrupt line, edge-triggered and active-high as on an ISA bus.
    pub irq: Option<u32>,
}

impl IsaDevice {
    /// The first serial port.
    pub const COM1: Self =
        Self { name: "COM1", hid: "PNP0501", uid: 1, ports: (ports::COM1, 8), irq: Some(ports::COM1_IRQ) };
    /// The real-time clock, without its alarm interrupt.
    pub const RTC: Self =
        Self { name: "RTC_", hid: "PNP0B00", uid: 0, ports: (ports::CMOS_INDEX, 2), irq: None };
    /// `pvpanic`, by which a guest tells that it has panicked.
    pub const PVPANIC: Self =
        Self { name: "PEVT", hid: "QEMU0001", uid: 0, ports: (ports::PVPANIC, 1), irq: None };
}

impl Aml for IsaDevice {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid: Box<dyn Aml> =
            if self.hid.len() == 7 { Box::new(aml::EISAName::new(self.hid)) } else { Box::new(self.hid) };
        let hid = aml::Name::new("_HID".into(), &*hid);
        let uid = aml::Name::new("_UID".into(), &self.uid);
        let io = io_range(self.ports.0, self.ports.1);
        let irq = self.irq.map(|irq| aml::Interrupt::new(true, true, false, false, irq));
        let mut resources: Vec<&dyn Aml> = vec![&io];
        resources.extend(irq.as_ref().map(|irq| irq as &dyn Aml));
        let crs = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(resources));
        aml::Device::new(self.name.into(), vec![&hid, &uid, &crs]).to_aml_bytes(sink);
    }
}

/// A virtio device on virtio-mmio: the ID by which Linux's driver finds it, its registers, its interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Tells them apart.
    pub index: u8,
    /// Its registers, below 4 GiB.
    pub window: Range,
    /// Its interrupt line, edge-triggered and active-high.
    pub gsi: u32,
}

impl Aml for VirtioMmio {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new("_HID".into(), &"LNRO0005");
        let uid = aml::Name::new("_UID".into(), &self.index);
        let registers = aml::Memory32Fixed::new(true, self.window.start as u32, self.window.len as u32);
        let interrupt = aml::Interrupt::new(true, true, false, false, self.gsi);
        let resources = aml::ResourceTemplate::new(vec![&registers, &interrupt]);
        let crs = aml::Name::new("_CRS".into(), &resources);
        let name = format!("VM{:02X}", self.index);
        aml::Device::new(name.as_str().into(), vec![&hid, &uid, &crs]).to_aml_bytes(sink);
    }
}

fn io_range(first: u16, count: u8) -> aml::IO {
    aml::IO::new(first, first, 1, count)
}

/// What belongs to the board and no guest may give to a device: ACPI's registers, Jiffy's ports, and the end
/// of the 32-bit hole.
struct Board;

impl Aml for Board {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let acpi = io_range(ports::ACPI_SLEEP_CONTROL, 0x10);
        let own = io_range(ports::JIFFY, ports::JIFFY_LEN as u8);
        let start = layout::KVM_PRIVATE.start;
        let high = aml::Memory32Fixed::new(false, start as u32, (layout::HOLE.end() - start) as u32);
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02"));
        let crs = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&acpi, &own, &high]));
        aml::Device::new("BORD".into(), vec![&hid, &crs]).to_aml_bytes(sink);
    }
}

/// The DSDT: how to power off (`\_S5`), and `\_SB` with the board and `devices`.
pub(super) fn dsdt(devices: &[&dyn Aml]) -> Sdt {
    const HEADER: u32 = 36;
    /// From 2 on, integers have 64 bits (ACPI 6.5, 5.2.11.1).
    const REVISION: u8 = 2;

    let mut body = Vec::with_capacity(1024);
    // SLP_TYP for PM1a (or the sleep control register) and PM1b, and two reserved elements.
    let s5 = aml::Package::new(vec![&ports::ACPI_S5, &ports::ACPI_S5, &aml::ZERO, &aml::ZERO]);
    aml::Name::new("_S5_".into(), &s5).to_aml_bytes(&mut body);
    let mut children: Vec<&dyn Aml> = vec![&Board];
    children.extend(devices);
    aml::Scope::new("\\_SB_".into(), children).to_aml_bytes(&mut body);

    let mut dsdt = Sdt::new(*b"DSDT", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt
}
