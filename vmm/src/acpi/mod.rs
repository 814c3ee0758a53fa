//! The ACPI tables, as bytes for [`abi::layout::ACPI`], or as files for a firmware that finds them a place
//! ([`link`]).
//!
//! | machine | ACPI hardware | power-off | reset |
//! |-|-|-|-|
//! | `fast` | reduced (ACPI 6.5, 4.1): no SCI, no PM registers, and no 8259 (MADT) | sleep control register | reset register |
//! | `legacy` | full: PM1a event and control blocks, SCI on line 9, FACS, 8259 | PM1a control; sleep control register for kernels that know no other hardware than reduced | reset register |
//!
//! Reduced hardware is the smaller machine, but Linux then gives up PIT and 8259 with it, and kernels before
//! 3.4 do not know it: hence full hardware where old kernels are the point. What the machine must have there is
//! small, because `SMI_CMD` is 0 (ACPI mode is the only mode) and no fixed event is ever raised: PM1a status
//! reads 0, PM1a enable keeps what is written, PM1a control reads `SCI_EN` and powers off on `SLP_EN` with
//! [`abi::ports::ACPI_S5`]. There is no PM timer, and neither VGA nor an 8042 keyboard controller.

mod aml;
mod fixed;
mod link;
mod pci;

#[cfg(test)]
mod tests;

use crate::config::MachineKind;
use abi::layout;
use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
pub use aml::{IsaDevice, VirtioMmio};
pub use link::{Linked, link};
use pci::PciHost;
use thiserror::Error;

/// Why there are no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The devices' AML does not fit.
    #[error(
        "the ACPI tables of this machine take {size} bytes and {} are set aside: give it fewer devices",
        layout::ACPI.len
    )]
    TooLarge {
        /// Bytes that the tables take.
        size: usize,
    },
}

/// What the tables describe.
#[derive(Clone, Copy)]
pub struct Spec<'a> {
    /// Number of vCPUs; their APIC IDs are 0 up to one less.
    pub cpus: u8,
    /// Which ACPI hardware and interrupt controllers there are.
    pub machine: MachineKind,
    /// Whether there is a PCI bus.
    pub pci: bool,
    /// The devices' own AML; each becomes a part of the scope `\_SB`.
    pub devices: &'a [&'a dyn Aml],
}

/// The tables, RSDP first, to be placed at the start of [`abi::layout::ACPI`].
pub fn build(spec: &Spec) -> Result<Vec<u8>, Error> {
    let mut image = Image::new(layout::ACPI.start);
    let xsdt = image.tables(spec);
    image.finish(&Rsdp::new(OEM_ID, xsdt))
}

const OEM_ID: [u8; 6] = *b"JIFFY ";
const OEM_TABLE_ID: [u8; 8] = *b"JIFFYVM ";
const OEM_REVISION: u32 = 1;

/// All tables start on 64 bytes, as the FACS must (ACPI 6.5, 5.2.10).
const fn align(offset: usize) -> usize {
    offset.next_multiple_of(64)
}

/// Tables behind room for an RSDP.
struct Image {
    /// Guest-physical address of the first byte.
    base: u64,
    bytes: Vec<u8>,
    /// Where in `bytes` each table starts.
    tables: Vec<usize>,
}

impl Image {
    fn new(base: u64) -> Self {
        Self { base, bytes: vec![0; align(Rsdp::len())], tables: Vec::new() }
    }

    /// Appends all tables; the address of the XSDT.
    fn tables(&mut self, spec: &Spec) -> u64 {
        let mut devices = spec.devices.to_vec();
        if spec.pci {
            devices.push(&PciHost);
        }
        let dsdt = self.place(&aml::dsdt(&devices));
        let facs = (spec.machine == MachineKind::Legacy).then(|| self.place(&fixed::facs()));
        let fadt = self.place(&fixed::fadt(dsdt, facs));
        let madt = self.place(&fixed::madt(spec.cpus, spec.machine));
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        if spec.pci {
            xsdt.add_entry(self.place(&pci::mcfg()));
        }
        self.place(&xsdt)
    }

    /// Appends a table; its address.
    fn place(&mut self, table: &dyn Aml) -> u64 {
        let offset = align(self.bytes.len());
        self.bytes.resize(offset, 0);
        self.tables.push(offset);
        table.to_aml_bytes(&mut self.bytes);
        self.base + offset as u64
    }

    fn finish(mut self, rsdp: &Rsdp) -> Result<Vec<u8>, Error> {
        let mut head = Vec::with_capacity(Rsdp::len());
        rsdp.to_aml_bytes(&mut head);
        self.bytes[..head.len()].copy_from_slice(&head);
        let size = self.bytes.len();
        if size as u64 > layout::ACPI.len { Err(Error::TooLarge { size }) } else { Ok(self.bytes) }
    }
}
