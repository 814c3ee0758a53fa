use super::*;
use abi::ports;
use proptest::prelude::*;
use std::collections::BTreeMap;

const DEVICES: &[&dyn Aml] = &[&IsaDevice::COM1, &IsaDevice::RTC, &IsaDevice::PVPANIC];

fn spec(cpus: u8, machine: MachineKind) -> Spec<'static> {
    Spec { cpus, machine, pci: false, devices: DEVICES }
}

/// An image, read as a guest reads it: by addresses, checking each checksum.
struct Reader(Vec<u8>);

impl Reader {
    fn of(spec: &Spec) -> Self {
        Self(build(spec).expect("tables"))
    }

    fn at(&self, address: u64) -> &[u8] {
        &self.0[usize::try_from(address - layout::ACPI.start).expect("an offset")..]
    }

    /// A table with the standard header.
    fn table(&self, address: u64, signature: &str) -> &[u8] {
        let bytes = self.at(address);
        assert_eq!(&bytes[..4], signature.as_bytes());
        let bytes = &bytes[..le(bytes, 4, 4) as usize];
        assert_eq!(sum(bytes), 0, "{signature}");
        assert_eq!(&bytes[10..24], b"JIFFY JIFFYVM ");
        bytes
    }

    fn xsdt_entries(&self) -> Vec<u64> {
        let rsdp = self.at(layout::ACPI.start);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp[..36])), (0, 0));
        assert_eq!((rsdp[15], le(rsdp, 20, 4)), (2, 36), "revision and length");
        let xsdt = self.table(le(rsdp, 24, 8), "XSDT");
        xsdt[36..].chunks(8).map(|entry| le(entry, 0, 8)).collect()
    }

    fn fadt(&self) -> &[u8] {
        self.table(self.xsdt_entries()[0], "FACP")
    }

    fn madt(&self) -> &[u8] {
        self.table(self.xsdt_entries()[1], "APIC")
    }

    fn dsdt(&self) -> &[u8] {
        self.table(le(self.fadt(), 140, 8), "DSDT")
    }
}

fn le(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes[offset..offset + len].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Generic address structure of a port: space, width, offset, access size, address.
fn io_register(fadt: &[u8], offset: usize) -> (u64, u64, u64) {
    assert_eq!(fadt[offset], 1, "system I/O");
    (u64::from(fadt[offset + 1]), u64::from(fadt[offset + 3]), le(fadt, offset + 4, 8))
}

const FLAGS: usize = 112;
const HW_REDUCED: u64 = 1 << 20;

#[test]
fn reduced_hardware_has_no_other() {
    let reader = Reader::of(&spec(1, MachineKind::Fast));
    let fadt = reader.fadt();
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    assert_eq!(le(fadt, FLAGS, 4) & HW_REDUCED, HW_REDUCED);
    assert_eq!(le(fadt, 109, 2), 1 << 2, "no VGA, no 8042, a CMOS RTC");
    assert_eq!((le(fadt, 56, 4), le(fadt, 64, 4), le(fadt, 132, 8)), (0, 0, 0), "no PM1a, no FACS");
    assert_eq!(le(reader.madt(), 40, 4), 0, "no 8259");
}

#[test]
fn full_hardware_has_pm1a_and_a_facs() {
    let reader = Reader::of(&spec(1, MachineKind::Legacy));
    let fadt = reader.fadt();
    assert_eq!(le(fadt, FLAGS, 4) & HW_REDUCED, 0);
    assert_eq!((le(fadt, 46, 2), le(fadt, 48, 4)), (9, 0), "SCI, and no SMI command port");
    assert_eq!((le(fadt, 56, 4), fadt[88]), (u64::from(ports::ACPI_PM1A_EVENT), 4));
    assert_eq!((le(fadt, 64, 4), fadt[89]), (u64::from(ports::ACPI_PM1A_CONTROL), 2));
    assert_eq!(io_register(fadt, 148), (32, 2, u64::from(ports::ACPI_PM1A_EVENT)));
    assert_eq!(io_register(fadt, 172), (16, 2, u64::from(ports::ACPI_PM1A_CONTROL)));
    let facs = le(fadt, 132, 8);
    assert_eq!((facs % 64, &reader.at(facs)[..4], le(reader.at(facs), 4, 4)), (0, &b"FACS"[..], 64));
    let madt = reader.madt();
    assert_eq!(le(madt, 40, 4), 1, "8259s");
    assert_eq!(&madt[madt.len() - 10..], &[2, 10, 0, 9, 9, 0, 0, 0, 0b1101, 0], "the SCI is level-triggered");
}

#[test]
fn both_reset_by_a_register_and_have_sleep_registers() {
    for machine in [MachineKind::Fast, MachineKind::Legacy] {
        let reader = Reader::of(&spec(1, machine));
        let fadt = reader.fadt();
        assert_ne!(le(fadt, FLAGS, 4) & 1 << 10, 0, "RESET_REG_SUP");
        assert_eq!(io_register(fadt, 116), (8, 1, u64::from(ports::ACPI_RESET)));
        assert_eq!(io_register(fadt, 244), (8, 1, u64::from(ports::ACPI_SLEEP_CONTROL)));
        assert_eq!(io_register(fadt, 256), (8, 1, u64::from(ports::ACPI_SLEEP_CONTROL) + 1));
        assert_eq!(fadt[128], ports::ACPI_RESET_VALUE);
    }
}

#[test]
fn dsdt_powers_off_and_names_its_devices() {
    let reader = Reader::of(&spec(2, MachineKind::Fast));
    let aml = &reader.dsdt()[36..];
    let has = |part: &[u8]| aml.windows(part.len()).any(|window| window == part);
    assert!(has(b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"), "Name (_S5, Package (4) {{5, 5, 0, 0}})");
    for name in [b"COM1", b"RTC_", b"PEVT", b"BORD"] {
        assert!(has(name));
    }
    assert!(has(b"\x0dQEMU0001\0"), "a string");
    assert!(has(b"\x0c\x41\xd0\x05\x01"), "EISA ID PNP0501");
    assert!(has(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]), "ports 0x3f8..0x400");
    assert!(has(&[0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]), "interrupt 4, edge, active high");
}

#[test]
fn too_many_devices_are_an_error() {
    let device: &dyn Aml = &IsaDevice::COM1;
    let devices = vec![device; 10_000];
    let error = build(&Spec { cpus: 1, machine: MachineKind::Fast, pci: false, devices: &devices });
    assert!(matches!(error, Err(Error::TooLarge { size }) if size > 128 << 10));
}

proptest! {
    #[test]
    fn every_vcpu_is_in_the_madt(cpus in 1u8..=254, legacy: bool) {
        let machine = if legacy { MachineKind::Legacy } else { MachineKind::Fast };
        let reader = Reader::of(&spec(cpus, machine));
        let madt = reader.madt();
        prop_assert_eq!(le(madt, 36, 4), layout::LAPIC.start);
        let mut rest = &madt[44..];
        for id in 0..cpus {
            prop_assert_eq!(&rest[..8], &[0, 8, id, id, 1, 0, 0, 0]);
            rest = &rest[8..];
        }
        prop_assert_eq!((rest[0], rest[1], rest[2]), (1, 12, 0), "one IOAPIC");
        prop_assert_eq!((le(rest, 4, 4), le(rest, 8, 4)), (layout::IOAPIC.start, 0));
        prop_assert_eq!(rest.len(), if legacy { 22 } else { 12 });
        prop_assert_eq!(reader.xsdt_entries().len(), 2);
        reader.dsdt();
    }
}

/// What a firmware does with the script: places both files, and obeys.
fn follow(linked: Linked, tables_at: u64, rsdp_at: u64) -> (Vec<u8>, Vec<u8>) {
    let Linked { rsdp, tables, loader } = linked;
    let mut files =
        BTreeMap::from([("etc/acpi/rsdp", (rsdp, rsdp_at)), ("etc/acpi/tables", (tables, tables_at))]);
    assert_eq!(loader.len() % 128, 0);
    for command in loader.chunks(128) {
        let name = |at: usize| {
            let text = &command[at..at + 56];
            std::str::from_utf8(&text[..text.iter().position(|&byte| byte == 0).unwrap()]).unwrap()
        };
        let word = |at: usize| le(command, at, 4) as usize;
        match word(0) {
            1 => assert_eq!(files[name(4)].1 % word(60) as u64, 0),
            2 => {
                let source = files[name(60)].1;
                let (at, dest) = (word(116), &mut files.get_mut(name(4)).unwrap().0);
                assert_eq!(command[120], 8);
                let value = le(dest, at, 8) + source;
                dest[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            3 => {
                let (at, start, len) = (word(60), word(64), word(68));
                let file = &mut files.get_mut(name(4)).unwrap().0;
                file[at] = file[at].wrapping_sub(sum(&file[start..start + len]));
            }
            other => panic!("command {other}"),
        }
    }
    let mut take = |name| files.remove(name).unwrap().0;
    (take("etc/acpi/rsdp"), take("etc/acpi/tables"))
}

#[test]
fn a_firmware_that_follows_the_script_has_the_same_tables() {
    for machine in [MachineKind::Fast, MachineKind::Legacy] {
        let spec = spec(3, machine);
        // Where the tables are at a direct boot.
        let (rsdp, mut tables) = follow(link(&spec), layout::ACPI.start, 0xf_0000);
        tables[..rsdp.len()].copy_from_slice(&rsdp);
        assert_eq!(tables, build(&spec).unwrap());
        let (_, elsewhere) = follow(link(&spec), 0x7fe_0000, 0xf_0000);
        assert_ne!(elsewhere[..], tables[..]);
    }
}

#[test]
fn a_pci_bus_is_described_only_where_there_is_one() {
    let ecam = (layout::PCI_ECAM.start as u32).to_le_bytes();
    for pci in [false, true] {
        let reader = Reader::of(&Spec { pci, ..spec(1, MachineKind::Fast) });
        let entries = reader.xsdt_entries();
        assert_eq!(entries.len(), 2 + usize::from(pci));
        let dsdt = reader.dsdt();
        for name in [&b"PCI0"[..], b"ECAM", &ecam] {
            assert_eq!(dsdt.windows(4).any(|window| window == name), pci, "{name:?}");
        }
        if let Some(&mcfg) = entries.get(2) {
            let mcfg = reader.table(mcfg, "MCFG");
            assert_eq!((mcfg.len(), le(mcfg, 44, 8)), (60, layout::PCI_ECAM.start));
            assert_eq!((le(mcfg, 52, 2), mcfg[54], mcfg[55]), (0, 0, 0), "segment, first and last bus");
        }
    }
}
