//! Step 5, where there are no ACPI tables: processors and interrupts by the MultiProcessor Specification 1.4, chapter 4.

use zerocopy::{Immutable, IntoBytes};

use abi::fw_cfg::key;
use abi::layout;

use crate::error::Error;
use crate::f_segment::FSegment;
use crate::fw_cfg::FwCfg;
use crate::machine::Machine;
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

/// A table being written.
struct Table<'a, M> {
    machine: &'a mut M,
    next: u64,
    entries: u16,
}

impl<M: Machine> Table<'_, M> {
    fn put<T: IntoBytes + Immutable>(&mut self, entry: T) {
        self.machine.write(self.next, entry);
        self.next += size_of::<T>() as u64;
        self.entries += 1;
    }
}

/// Writes the table.
#[inline(never)]
pub fn install(machine: &mut impl Machine, fw_cfg: &FwCfg, f_segment: &mut FSegment) -> Result<(), Error> {
    let processors = fw_cfg.number(machine, key::NB_CPUS)? as u16;
    let processors = processors.clamp(1, PROCESSORS_MAX);
    let shorts = 2 + u64::from(ISA_LINES) - 1 + 2;
    let len = size_of::<Header>() as u64
        + u64::from(processors) * size_of::<Processor>() as u64
        + shorts * size_of::<Short>() as u64;
    let Some(pointer) = f_segment.take(size_of::<Pointer>() as u64 + len, 16) else { return Ok(()) };
    let header = pointer + size_of::<Pointer>() as u64;
    let mut table = Table { machine, next: header + size_of::<Header>() as u64, entries: 0 };
    for apic in 0..processors as u8 {
        let flags = 1 | u8::from(apic == 0) << 1;
        // Signature and features as CPUID says would leave the VM, and nobody needs them.
        table.put(Processor {
            kind: 0,
            apic,
            apic_version: APIC_VERSION,
            flags,
            signature: 0,
            features: 0,
            reserved: [0; 2],
        });
    }
    table.put([BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = (layout::IOAPIC.start as u32).to_le_bytes();
    table.put([IOAPIC, 0, IOAPIC_VERSION, 1, a, b, c, d]);
    // Line 2 is where the second 8259 is; the timer's line 0 has its pin.
    for line in (0..ISA_LINES).filter(|&line| line != 2) {
        let pin = if line == 0 { 2 } else { line };
        table.put([IO_INTERRUPT, 0, 0, 0, 0, line, 0, pin]);
    }
    table.put([LOCAL_INTERRUPT, EXTINT, 0, 0, 0, 0, ALL_APICS, 0]);
    table.put([LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, ALL_APICS, 1]);
    let entries = table.entries;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::sum::sum;
    use crate::fake::Fake;

    #[test]
    fn every_entry_is_there_and_the_sums_are_right() {
        let mut fake = Fake::with_ram(4 << 20);
        fake.set_item(key::NB_CPUS, &3u16.to_le_bytes());
        let fw_cfg = FwCfg::detect(&mut fake).expect("a device");
        install(&mut fake, &fw_cfg, &mut FSegment::default()).expect("no errors");
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
        assert_eq!((next, kinds), (table + u64::from(len), [3, 1, 1, 15, 2]));
    }
}
