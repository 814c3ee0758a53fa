//! INT 15h: how much memory there is (ACPI 6.5, 15.1; Linux, `arch/x86/boot/memory.c`, as the caller).

use abi::e820::Entry;

use super::{Frame, MAP};
use crate::machine::Machine;
use crate::memory_map::MemoryMap;

/// "SMAP".
const SIGNATURE: u32 = 0x534d_4150;
const ENTRIES: u64 = MAP.start + 8;
const ENTRY_LEN: u64 = size_of::<Entry>() as u64;
const KIB: u64 = 10;
const MIB: u64 = 1 << 20;
/// "Function not supported".
const UNSUPPORTED: u8 = 0x86;

const _: () = assert!(ENTRIES + crate::memory_map::MAX as u64 * ENTRY_LEN <= MAP.end());

/// Writes down what the payload may ask for.
pub(super) fn write_map(machine: &mut impl Machine, map: &MemoryMap) {
    machine.write(MAP.start, map.areas().len() as u32);
    for (at, area) in (ENTRIES..).step_by(ENTRY_LEN as usize).zip(map.areas()) {
        let size = area.end - area.start;
        machine.write(at, Entry { addr: area.start.into(), size: size.into(), kind: area.kind });
    }
}

pub(super) fn service(machine: &mut impl Machine, frame: &mut Frame) {
    frame.carry(false);
    match frame.eax as u16 {
        0xe820 if frame.edx == SIGNATURE && u64::from(frame.ecx) >= ENTRY_LEN => entry(machine, frame),
        0xe801 => {
            let above = above_1_mib(machine);
            let low = above.min(15 * MIB) >> KIB;
            let high = (above.saturating_sub(15 * MIB) >> 16).min(0xffff);
            frame.set_ax(low as u16);
            frame.ebx = frame.ebx & 0xffff_0000 | high as u32;
            frame.ecx = frame.ecx & 0xffff_0000 | low as u32;
            frame.edx = frame.edx & 0xffff_0000 | high as u32;
        }
        // The A20 gate is open, whatever is asked.
        0x2400 | 0x2401 => frame.set_ah(0),
        0x2402 => frame.set_ax(1),
        0x2403 => {
            frame.set_ah(0);
            frame.ebx = frame.ebx & 0xffff_0000 | 0b11;
        }
        _ if frame.ah() == 0x88 => frame.set_ax((above_1_mib(machine) >> KIB).min(0xfc00) as u16),
        _ => {
            frame.carry(true);
            frame.set_ah(UNSUPPORTED);
        }
    }
}

/// Gives one entry of the memory map.
fn entry(machine: &mut impl Machine, frame: &mut Frame) {
    let count: u32 = machine.read(MAP.start);
    if frame.ebx >= count {
        frame.carry(true);
        frame.set_ah(UNSUPPORTED);
        return;
    }
    let entry: Entry = machine.read(ENTRIES + u64::from(frame.ebx) * ENTRY_LEN);
    machine.write((u64::from(frame.es) << 4) + u64::from(frame.edi as u16), entry);
    frame.eax = SIGNATURE;
    frame.ecx = ENTRY_LEN as u32;
    frame.ebx = if frame.ebx + 1 == count { 0 } else { frame.ebx + 1 };
}

/// Bytes of RAM from 1 MiB on, in one piece, below 4 GiB.
fn above_1_mib(machine: &impl Machine) -> u64 {
    let count: u32 = machine.read(MAP.start);
    let mut entries = (0..u64::from(count)).map(|i| machine.read::<Entry>(ENTRIES + i * ENTRY_LEN));
    let area = entries.find(|it| it.addr.get() <= MIB && MIB < it.addr.get() + it.size.get());
    area.map_or(0, |it| (it.addr.get() + it.size.get()).min(1 << 32) - MIB)
}
