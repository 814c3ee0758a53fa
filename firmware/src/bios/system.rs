//! INT 10h, 16h and 1Ah, and the timer: a console that is the serial port, no keyboard, and the time since the start.

use core::fmt::Write;

use abi::layout;

use super::Frame;
use crate::machine::Machine;
use crate::serial::Serial;

/// Ticks since midnight, in the BIOS data area.
const TICKS: u64 = 0x46c;
/// Ticks of a day.
const DAY: u32 = 0x18_00b0;
/// 8259A: command and data ports of both (Intel 231468).
const PICS: [(u16, u16); 2] = [(0x20, 0x21), (0xa0, 0xa1)];
/// End of interrupt, whichever it was.
const EOI: u8 = 0x20;
/// 8254: the first counter and the control port (Intel 231164).
const COUNTER_0: u16 = 0x40;
const TIMER_CONTROL: u16 = 0x43;
/// Counter 0, low byte then high byte, mode 3.
const SQUARE_WAVE: u8 = 0x36;
/// Registers of the local APIC, and what they get (Intel SDM 3, 11.4.1, 11.5.1 and 11.9): enabled; what the 8259As have
/// comes in by LINT0, NMIs by LINT1.
const LOCAL_APIC: [(u64, u32); 3] = [(0xf0, 1 << 8 | 0xff), (0x350, 7 << 8), (0x360, 4 << 8)];
const CMOS_DATA: u16 = abi::ports::CMOS_INDEX + 1;

/// As a BIOS leaves them: interrupts at vectors 0x08 and 0x70, all but the timer's masked; 18.2 ticks a second; virtual
/// wire mode (MultiProcessor Specification 1.4, 3.6.2.2).
pub(super) fn set_up_interrupts(machine: &mut impl Machine) {
    // ICW1: edge-triggered, cascaded, with ICW4; ICW2: vector; ICW3: who is where; ICW4: 8086; OCW1: mask.
    for ((command, data), words) in PICS.into_iter().zip([[0x08, 1 << 2, 1, 0xfe], [0x70, 2, 1, 0xff]]) {
        machine.out_u8(command, 0x11);
        words.into_iter().for_each(|word| machine.out_u8(data, word));
    }
    machine.out_u8(TIMER_CONTROL, SQUARE_WAVE);
    machine.out_u8(COUNTER_0, 0);
    machine.out_u8(COUNTER_0, 0);
    machine.write(TICKS, 0u32);
    machine.map(layout::LAPIC.start, layout::LAPIC.len);
    LOCAL_APIC.into_iter().for_each(|(at, value)| machine.mmio_write_u32(layout::LAPIC.start + at, value));
}

/// INT 08h, the timer's.
pub(super) fn tick(machine: &mut impl Machine) {
    let ticks = machine.read::<u32>(TICKS) + 1;
    machine.write(TICKS, if ticks >= DAY { 0 } else { ticks });
    machine.out_u8(PICS[0].0, EOI);
}

/// INT 10h.
pub(super) fn video(machine: &mut impl Machine, frame: &mut Frame) {
    match frame.ah() {
        // Cursor: shape, and position, which nobody knows.
        0x03 => {
            frame.ecx = frame.ecx & 0xffff_0000 | 0x0607;
            frame.edx &= 0xffff_0000;
        }
        // A character, CX times.
        0x09 | 0x0a => {
            let count = (frame.ecx & 0xffff).min(80);
            (0..count).for_each(|_| print(machine, frame.al()));
        }
        0x0e => print(machine, frame.al()),
        // Mode 3, of 80 columns, on page 0.
        0x0f => {
            frame.set_ax(80 << 8 | 3);
            frame.ebx &= 0xffff_00ff;
        }
        // A string; bit 1 of AL: with an attribute behind each character.
        0x13 => {
            let step = if frame.al() & 1 << 1 != 0 { 2 } else { 1 };
            for i in 0..frame.ecx as u16 {
                let offset = (frame.ebp as u16).wrapping_add(i.wrapping_mul(step));
                let byte = machine.read((u64::from(frame.es) << 4) + u64::from(offset));
                print(machine, byte);
            }
        }
        _ => {}
    }
}

fn print(machine: &mut impl Machine, byte: u8) {
    // Writing does not fail: without a UART the byte goes nowhere.
    let _ = Serial::open(machine).write_char(byte.into());
}

/// INT 16h: no key was pressed, nor will be.
pub(super) fn keyboard(frame: &mut Frame) {
    match frame.ah() {
        0x00 | 0x10 => frame.set_ax(0),
        0x01 | 0x11 => frame.zero(true),
        0x02 | 0x12 => frame.set_ax(frame.eax as u16 & 0xff00),
        _ => {}
    }
}

/// INT 1Ah.
pub(super) fn time(machine: &mut impl Machine, frame: &mut Frame) {
    frame.carry(false);
    match frame.ah() {
        0x00 => {
            let ticks: u32 = machine.read(TICKS);
            frame.ecx = frame.ecx & 0xffff_0000 | ticks >> 16;
            frame.edx = frame.edx & 0xffff_0000 | ticks & 0xffff;
            frame.set_ax(frame.eax as u16 & 0xff00);
        }
        0x01 => {
            let ticks = frame.ecx << 16 | frame.edx & 0xffff;
            machine.write(TICKS, ticks);
        }
        // Hours, minutes, seconds; century, year, month, day: as the clock has them.
        0x02 => {
            let [high, low, seconds] = [0x04, 0x02, 0x00].map(|register| cmos(machine, register));
            set_clock(frame, high, low, u16::from(seconds) << 8);
        }
        0x04 => {
            let [high, low, month, day] = [0x32, 0x09, 0x08, 0x07].map(|register| cmos(machine, register));
            set_clock(frame, high, low, u16::from_be_bytes([month, day]));
        }
        _ => {
            frame.carry(true);
            frame.set_ah(0x86);
        }
    }
}

fn set_clock(frame: &mut Frame, high: u8, low: u8, dx: u16) {
    // Nobody there reads as all ones.
    frame.carry(low == 0xff);
    frame.ecx = frame.ecx & 0xffff_0000 | u32::from(u16::from_be_bytes([high, low]));
    frame.edx = frame.edx & 0xffff_0000 | u32::from(dx);
}

fn cmos(machine: &mut impl Machine, register: u8) -> u8 {
    machine.out_u8(abi::ports::CMOS_INDEX, register);
    machine.in_u8(CMOS_DATA)
}
