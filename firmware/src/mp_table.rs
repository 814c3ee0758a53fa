//! Step 5, where there are no ACPI tables: processors and interrupts by the MultiProcessor Specification 1.4, chapter 4.

use zerocopy::{Immutable, IntoBytes};

use abi::fw_cfg::key;
use abi::layout;

use crate::error::Error;
use crate::f_segment::FSegment;
use crate::fw_cfg::FwCfg;
use crate::machine::Machine;
use crate::pci::chipset::{Chipset, LINES};
use crate::smbios::correct;

/// The most processors: their APIC IDs are bytes, and the table has its room.
const PROCESSORS_MAX: u16 = 240;
const REVISION: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const ISA_LINES: u8 = 16;

/// "MP Floating Pointer Structure", 4.1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Pointer {
    signature: [u8; 4],
    table: u32,
    /// In units of 16 bytes.
    len: u8,
    revision: u8,
    checksum: u8,
    features: [u8; 5],
}

/// "MP Configuration Table Header", 4.2.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    len: u16,
    revision: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: u32,
    oem_table_len: u16,
    entries: u16,
    local_apic: u32,
    extended: u32,
}

/// 4.3.1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Processor {
    kind: u8,
    apic: u8,
    apic_version: u8,
    /// Bit 0: usable; bit 1: the one that runs.
    flags: u8,
    signature: u32,
    features: u32,
    reserved: [u32; 2],
}

/// 4.3.2, 4.3.3: of eight bytes each.
type Short = [u8; 8];
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
/// 4.3.4, 4.3.5: kind, type, flags (2 bytes), bus, line, APIC, pin.
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
const NMI: u8 = 1;
const EXTINT: u8 = 3;
const ALL_APICS: u8 = 0xff;

/// Active high and level-triggered, as PCI's lines are on these machines.
const LEVEL: u8 = 0b1101;
const DEVICES: u8 = 32;
const PINS: u8 = 4;

/// All that is behind the processors on machines without PCI.
const REST: [Short; 2 + ISA_LINES as usize - 1 + 2] = {
    let [a, b, c, d] = (layout::IOAPIC.start as u32).to_le_bytes();
    let mut rest = [[0; 8]; 2 + ISA_LINES as usize - 1 + 2];
    rest[0] = [BUS, 0, b'I', b'S', b'A', b' ', b' ', b' '];
    rest[1] = [IOAPIC, 0, IOAPIC_VERSION, 1, a, b, c, d];
    // Line 2 is where the second 8259 is; the timer's line 0 has its pin.
    rest[2] = [IO_INTERRUPT, 0, 0, 0, 0, 0, 0, 2];
    rest[3] = [IO_INTERRUPT, 0, 0, 0, 0, 1, 0, 1];
    let mut line = 3;
    while line < ISA_LINES {
        rest[line as usize + 1] = [IO_INTERRUPT, 0, 0, 0, 0, line, 0, line];
        line += 1;
    }
    rest[17] = [LOCAL_INTERRUPT, EXTINT, 0, 0, 0, 0, ALL_APICS, 0];
    rest[18] = [LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, ALL_APICS, 1];
    rest
};

/// Writes the table of a machine that has so many PCI buses.
#[inline(never)]
pub fn install(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    f_segment: &mut FSegment,
    chipset: Chipset,
    buses: u8,
) -> Result<(), Error> {
    let processors = fw_cfg.number(machine, key::NB_CPUS)? as u16;
    let processors = processors.clamp(1, PROCESSORS_MAX);
    let pci = if buses > 0 { u16::from(buses) + u16::from(DEVICES * PINS) - SHARED } else { 0 };
    let entries = processors + REST.len() as u16 + pci;
    let len = size_of::<Header>() as u64
        + u64::from(processors) * size_of::<Processor>() as u64
        + u64::from(entries - processors) * size_of::<Short>() as u64;
    let Some(pointer) = f_segment.take(size_of::<Pointer>() as u64 + len, 16) else { return Ok(()) };
    let header = pointer + size_of::<Pointer>() as u64;
    let mut next = header + size_of::<Header>() as u64;
    for apic in 0..processors as u8 {
        let flags = 1 | u8::from(apic == 0) << 1;
        // Signature and features as CPUID says would leave the VM, and nobody needs them.
        let processor = Processor {
            kind: 0,
            apic,
            apic_version: APIC_VERSION,
            flags,
            signature: 0,
            features: 0,
            reserved: [0; 2],
        };
        machine.write(next, processor);
        next += size_of::<Processor>() as u64;
    }
    if buses > 0 {
        rest_with_pci(machine, next, chipset, buses);
    } else {
        machine.write(next, REST);
    }
    let head = Header {
        signature: *b"PCMP",
        len: len as u16,
        revision: REVISION,
        checksum: 0,
        oem: *b"JIFFY   ",
        product: *b"FIRMWARE    ",
        oem_table: 0,
        oem_table_len: 0,
        entries,
        local_apic: layout::LAPIC.start as u32,
        extended: 0,
    };
    machine.write(header, head);
    correct(machine, header, len, header + core::mem::offset_of!(Header, checksum) as u64);
    let start = Pointer {
        signature: *b"_MP_",
        table: header as u32,
        len: 1,
        revision: REVISION,
        checksum: 0,
        features: [0; 5],
    };
    machine.write(pointer, start);
    let checksum = pointer + core::mem::offset_of!(Pointer, checksum) as u64;
    correct(machine, pointer, size_of::<Pointer>() as u64, checksum);
    Ok(())
}

/// Lines that PCI has for itself: two, each of which stands twice among [`LINES`].
const SHARED: u16 = LINES.len() as u16 / 2;

/// What is behind the processors, with PCI. A bus's number is what the specification calls its ID, and ISA has the next.
/// Systems find their way from devices behind bridges to a pin on the first bus.
#[inline(never)]
fn rest_with_pci(machine: &mut impl Machine, mut next: u64, chipset: Chipset, buses: u8) {
    let mut put = |entry: Short| {
        machine.write(next, entry);
        next += size_of::<Short>() as u64;
    };
    (0..buses).for_each(|bus| put([BUS, bus, b'P', b'C', b'I', b' ', b' ', b' ']));
    put([BUS, buses, b'I', b'S', b'A', b' ', b' ', b' ']);
    put(REST[1]);
    for source in 0..DEVICES * PINS {
        let line = chipset.line(source / PINS, source % PINS);
        put([IO_INTERRUPT, 0, LEVEL, 0, 0, source, 0, line]);
    }
    for mut entry in REST[2..].iter().copied().filter(|entry| !LINES.contains(&entry[5])) {
        entry[4] = buses;
        put(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::sum::sum;
    use crate::fake::Fake;

    /// How many entries there are of each kind.
    fn kinds(chipset: Chipset, buses: u8) -> [u8; 5] {
        let mut fake = Fake::with_ram(4 << 20);
        fake.set_item(key::NB_CPUS, &3u16.to_le_bytes());
        let fw_cfg = FwCfg::detect(&mut fake).expect("a device");
        install(&mut fake, &fw_cfg, &mut FSegment::default(), chipset, buses).expect("no errors");
        let at = crate::places::TABLES.start;
        assert_eq!((fake.bytes(at, 4), sum(fake.bytes(at, 16))), (&b"_MP_"[..], 0));
        let table = u64::from(fake.read::<u32>(at + 4));
        let (len, entries): (u16, u16) = (fake.read(table + 4), fake.read(table + 34));
        assert_eq!((fake.bytes(table, 4), sum(fake.bytes(table, len.into()))), (&b"PCMP"[..], 0));
        let (mut next, mut kinds) = (table + 44, [0; 5]);
        for _ in 0..entries {
            let kind: u8 = fake.read(next);
            kinds[usize::from(kind)] += 1;
            next += if kind == 0 { 20 } else { 8 };
        }
        assert_eq!(next, table + u64::from(len));
        kinds
    }

    #[test]
    fn every_entry_is_there_and_the_sums_are_right() {
        assert_eq!(kinds(Chipset::None, 0), [3, 1, 1, 15, 2]);
        assert_eq!(kinds(Chipset::Q35, 2), [3, 3, 1, 13 + 128, 2]);
    }
}
