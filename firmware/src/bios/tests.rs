//! Services, called as a payload would.

use std::vec::Vec;

use abi::e820::{Entry, Kind};

use super::*;
use crate::fake::Fake;
use crate::machine::Machine;

const FRAME: u64 = 0x5000;
const BUFFER: u64 = 0x6000;

fn machine() -> (Fake, MemoryMap) {
    let mut fake = Fake::with_ram(4 << 20);
    let mut map = MemoryMap::default();
    map.set(0, layout::EBDA.start, Kind::RAM).expect("room");
    map.set(0x10_0000, 0x2000_0000, Kind::RAM).expect("room");
    map.set(0x1_0000_0000, 0x1_4000_0000, Kind::RAM).expect("room");
    reserve(&mut fake, &mut map).expect("room");
    install(&mut fake, &map);
    (fake, map)
}

fn call(fake: &mut Fake, frame: Frame) -> Frame {
    fake.write(FRAME, frame);
    service(fake, FRAME);
    fake.read(FRAME)
}

#[test]
fn vectors_lead_to_the_f_segment() {
    let (fake, _) = machine();
    assert_eq!(fake.read::<[u16; 2]>(0), [0xf800, 0xf000], "an iret");
    assert_eq!(fake.read::<[u16; 2]>(0x10 * 4), [0xf810, 0xf000], "the second stub");
    assert_eq!(fake.read::<[u16; 2]>(0x1a * 4), [0xf840, 0xf000], "the last stub");
}

#[test]
fn e820_gives_the_whole_map() {
    let (mut fake, map) = machine();
    let mut seen = Vec::new();
    let ask = |ebx| Frame {
        vector: 0x15,
        eax: 0xe820,
        edx: 0x534d_4150,
        ecx: 24,
        ebx,
        es: (BUFFER >> 4) as u16,
        flags: flag::CARRY,
        ..Frame::default()
    };
    let mut ebx = 0;
    loop {
        let answer = call(&mut fake, ask(ebx));
        assert_eq!((answer.eax, answer.ecx, answer.flags & flag::CARRY), (0x534d_4150, 20, 0));
        let entry: Entry = fake.read(BUFFER);
        seen.push((entry.addr.get(), entry.addr.get() + entry.size.get(), entry.kind));
        ebx = answer.ebx;
        if ebx == 0 {
            break;
        }
    }
    let areas: Vec<_> = map.areas().iter().map(|area| (area.start, area.end, area.kind)).collect();
    assert_eq!(seen, areas);
    assert_eq!(areas[1], (AREA.start, AREA.end(), Kind::RESERVED));
    assert_ne!(call(&mut fake, ask(1000)).flags & flag::CARRY, 0, "behind the end");
}

#[test]
fn sizes_of_memory() {
    let (mut fake, _) = machine();
    let ask = |eax| Frame { vector: 0x15, eax, ..Frame::default() };
    let answer = call(&mut fake, ask(0xe801));
    assert_eq!((answer.eax, answer.ebx, answer.ecx, answer.edx), (15 << 10, 496 * 16, 15 << 10, 496 * 16));
    assert_eq!(call(&mut fake, ask(0x8800)).eax, 0xfc00);
    let answer = call(&mut fake, Frame { vector: 0x12, eax: 0x1234_5678, ..Frame::default() });
    assert_eq!(answer.eax, 0x1234_0000 | 608);
    assert_ne!(call(&mut fake, ask(0xec00)).flags & flag::CARRY, 0);
}

#[test]
fn text_goes_to_the_serial_port() {
    let (mut fake, _) = machine();
    let teletype = Frame { vector: 0x10, eax: 0x0e00 | u32::from(b'!'), ..Frame::default() };
    call(&mut fake, teletype);
    fake.write_bytes(BUFFER, b"ok");
    let string = Frame { vector: 0x10, eax: 0x1301, ecx: 2, ebp: BUFFER as u32, ..Frame::default() };
    call(&mut fake, string);
    assert_eq!(fake.serial_output(), "!ok");
}

#[test]
fn there_is_no_disk_and_no_key() {
    let (mut fake, _) = machine();
    let answer = call(&mut fake, Frame { vector: 0x13, eax: 0x4100, ..Frame::default() });
    assert_eq!((answer.eax, answer.flags & flag::CARRY), (0x0100, flag::CARRY));
    let answer = call(&mut fake, Frame { vector: 0x16, eax: 0x0100, ..Frame::default() });
    assert_eq!(answer.flags & flag::ZERO, flag::ZERO);
}

#[test]
fn ticks_are_counted_and_told() {
    let (mut fake, _) = machine();
    assert_eq!(fake.mmio_read_u32(0xfee0_0350), 0x700, "they come through the local APIC");
    fake.write(0x46c, 0x18_00ae_u32);
    let tick = Frame { vector: 0x08, eax: 7, ..Frame::default() };
    assert_eq!(call(&mut fake, tick), tick);
    let answer = call(&mut fake, Frame { vector: 0x1a, ..Frame::default() });
    assert_eq!((answer.ecx, answer.edx), (0x18, 0x00af));
    call(&mut fake, tick);
    let answer = call(&mut fake, Frame { vector: 0x1a, ..Frame::default() });
    assert_eq!((answer.ecx, answer.edx), (0, 0), "a new day");
}

#[test]
fn the_first_entry_is_a_return() {
    let (mut fake, _) = machine();
    prepare_entry(&mut fake, 0x1020, 0, 0x1000, 0xe000);
    let [sp, high, ss]: [u16; 3] = fake.read(STATE.start);
    assert_eq!(high, 0);
    let frame: Frame = fake.read((u64::from(ss) << 4) + u64::from(sp));
    assert_eq!((frame.cs, frame.ip, frame.ds, frame.es), (0x1020, 0, 0x1000, 0x1000));
    assert_eq!((ss, sp + 44, frame.flags), (0x1000, 0xe000, 2));
}
