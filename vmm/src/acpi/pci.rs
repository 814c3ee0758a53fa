//! The PCI Express host: the table that says where its configuration space is, and its AML.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use abi::layout;
use acpi_tables::mcfg::MCFG;
use acpi_tables::{Aml, AmlSink, aml};

/// Bytes of configuration space of one bus.
const BUS: u32 = 1 << 20;

/// Configuration space of bus 0, the only one (PCI Firmware 3.2, 4.1.2).
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::PCI_ECAM.start, 0, 0, 0);
    mcfg
}

/// The root bus. It has no `_PRT`, since no function has a pin, and no `_OSC`, since there is nothing to take over.
pub(super) struct PciHost;

impl Aml for PciHost {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08"));
        let cid = aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03"));
        let uid = aml::Name::new("_UID".into(), &aml::ZERO);
        let buses = aml::AddressSpace::new_bus_number(0_u16, 0_u16);
        let (first, last) = (layout::PCI_MMIO.start as u32, (layout::PCI_MMIO.end() - 1) as u32);
        let memory =
            aml::AddressSpace::new_memory(aml::AddressSpaceCacheable::NotCacheable, true, first, last, None);
        let (first, last) = (layout::PCI_PORTS.start as u16, (layout::PCI_PORTS.end() - 1) as u16);
        let ports = aml::AddressSpace::new_io(first, last, None);
        let crs = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&buses, &ports, &memory]));
        aml::Device::new("PCI0".into(), vec![&hid, &cid, &uid, &crs]).to_aml_bytes(sink);

        // Linux before 6.8 uses no ECAM that is not among the motherboard's resources as well (PCI Firmware 3.2,
        // 4.1.2).
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02"));
        let uid = aml::Name::new("_UID".into(), &aml::ONE);
        let ecam = aml::Memory32Fixed::new(true, layout::PCI_ECAM.start as u32, BUS);
        let crs = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&ecam]));
        aml::Device::new("ECAM".into(), vec![&hid, &uid, &crs]).to_aml_bytes(sink);
    }
}
