//! Step 7: what a payload finds that calls the BIOS, in real mode: interrupt vectors, and services behind them.
//!
//! An INT goes to a stub in the F segment, which switches to long mode and calls [`service`].

pub mod memory;
pub mod system;

use abi::layout::{self, Range};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::low_memory::CONVENTIONAL_KIB;
use crate::machine::Machine;
use crate::memory_map::{Error, MemoryMap};
use crate::places::PAGE_POINTERS;

/// What the services keep while a payload runs: below the EBDA, and no RAM to the payload.
pub const AREA: Range = Range::new(0x9_8000, layout::EBDA.start);
/// PML4, page-directory-pointer table, and page directories for the first and the last 2 MiB below 4 GiB.
pub const TABLES: Range = Range::new(AREA.start, AREA.start + 0x4000);
/// What the stubs save; the services' stack ends here.
pub const STATE: Range = Range::new(0x9_e000, 0x9_e080);
/// The memory map that INT 15h gives: a number of entries in four bytes, then the entries.
pub const MAP: Range = Range::new(STATE.end(), PAGE_POINTERS.start);

/// The vectors that have stubs, in the order of the stubs.
pub const VECTORS: [u8; 8] = [0x08, 0x10, 0x11, 0x12, 0x13, 0x15, 0x16, 0x1a];
/// Where 16-bit code starts: with an `iret`, then the stubs.
pub const CODE: Range = Range::new(0xf_f800, 0x10_0000);
const STUB_LEN: u16 = 8;
/// Present, writable; and with bit 7 a page of 2 MiB.
const TABLE: u64 = 0b11;
const PAGE: u64 = TABLE | 1 << 7;
const LAST_PAGE: u64 = 0xffe0_0000;

/// The caller's registers, as a stub pushes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Frame {
    /// Segment registers.
    pub es: u16,
    /// Segment registers.
    pub ds: u16,
    /// General registers.
    pub edi: u32,
    /// General registers.
    pub esi: u32,
    /// General registers.
    pub ebp: u32,
    /// As before it was pushed; given back by the stub itself.
    pub esp: u32,
    /// General registers.
    pub ebx: u32,
    /// General registers.
    pub edx: u32,
    /// General registers.
    pub ecx: u32,
    /// General registers.
    pub eax: u32,
    /// Which interrupt this is.
    pub vector: u16,
    /// Where the caller goes on.
    pub ip: u16,
    /// Where the caller goes on.
    pub cs: u16,
    /// The caller's flags.
    pub flags: u16,
}

const _: () = assert!(size_of::<Frame>() == 44);

/// What the stubs keep of the caller's, without what is behind it.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct State {
    esp: u32,
    ss: u16,
    fs: u16,
    gs: u16,
    padding: u16,
    cr3: u32,
    cr4: u32,
    efer: u32,
    gdtr: [u16; 4],
}

/// Bits of [`Frame::flags`].
mod flag {
    pub const ALWAYS: u16 = 1 << 1;
    pub const CARRY: u16 = 1 << 0;
    pub const ZERO: u16 = 1 << 6;
}

/// Sets a flag of the caller's, or clears it.
fn set_flag(frame: &mut Frame, flag: u16, on: bool) {
    frame.flags = if on { frame.flags | flag } else { frame.flags & !flag };
}

impl Frame {
    /// Says that a call failed, or did not.
    fn carry(&mut self, on: bool) {
        set_flag(self, flag::CARRY, on);
    }

    fn zero(&mut self, on: bool) {
        set_flag(self, flag::ZERO, on);
    }

    fn ah(&self) -> u8 {
        (self.eax >> 8) as u8
    }

    fn al(&self) -> u8 {
        self.eax as u8
    }

    fn set_ax(&mut self, value: u16) {
        self.eax = self.eax & 0xffff_0000 | u32::from(value);
    }

    fn set_ah(&mut self, value: u8) {
        self.eax = self.eax & 0xffff_00ff | u32::from(value) << 8;
    }
}

/// Keeps the services' memory from the payload. Before the payload is told of any memory.
pub fn reserve(machine: &mut impl Machine, map: &mut MemoryMap) -> Result<(), Error> {
    map.set(AREA.start, AREA.end(), abi::e820::Kind::RESERVED)?;
    machine.write(crate::low_memory::MEMORY_SIZE, CONVENTIONAL_KIB - (AREA.len >> 10) as u16);
    Ok(())
}

/// Puts vectors, page tables and the memory map in place, and sets timer and interrupt controllers up.
pub fn install(machine: &mut impl Machine, map: &MemoryMap) {
    let [pml4, pdpt, first, last] = [0, 1, 2, 3].map(|i| TABLES.start + i * 0x1000);
    machine.write(pml4, pdpt | TABLE);
    machine.write(pdpt, first | TABLE);
    machine.write(pdpt + 3 * 8, last | TABLE);
    machine.write(first, PAGE);
    machine.write(last + 511 * 8, LAST_PAGE | PAGE);
    let vector = |offset: u16| 0xf000_u32 << 16 | u32::from(offset);
    let iret = CODE.start as u16;
    machine.fill_u32(0, vector(iret), 256);
    for (i, &number) in (1u16..).zip(&VECTORS) {
        machine.write(u64::from(number) * 4, vector(iret + i * STUB_LEN));
    }
    memory::write_map(machine, map);
    system::set_up_interrupts(machine);
}

/// Prepares the first entry to real mode, as if it were the return from a service.
pub fn prepare_entry(machine: &mut impl Machine, cs: u16, ip: u16, ds: u16, sp: u16) {
    let sp = sp - size_of::<Frame>() as u16;
    let frame = Frame { es: ds, ds, ip, cs, flags: flag::ALWAYS, ..Frame::default() };
    machine.write((u64::from(ds) << 4) + u64::from(sp), frame);
    let gdtr = [u16::MAX, 0, 0, 0];
    let state = State { esp: sp.into(), ss: ds, fs: ds, gs: ds, padding: 0, cr3: 0, cr4: 0, efer: 0, gdtr };
    machine.write(STATE.start, state);
}

/// Serves an interrupt whose frame is at `frame`.
pub fn service(machine: &mut impl Machine, frame: u64) {
    let mut registers: Frame = machine.read(frame);
    match registers.vector {
        0x08 => system::tick(machine),
        0x10 => system::video(machine, &mut registers),
        0x11 => registers.set_ax(crate::low_memory::EQUIPMENT),
        0x12 => {
            let kib = machine.read(crate::low_memory::MEMORY_SIZE);
            registers.set_ax(kib);
        }
        0x13 => {
            // There are no disks: "invalid function or parameter".
            registers.carry(true);
            registers.set_ah(1);
        }
        0x15 => memory::service(machine, &mut registers),
        0x16 => system::keyboard(&mut registers),
        _ => system::time(machine, &mut registers),
    }
    machine.write(frame, registers);
}

#[cfg(test)]
mod tests;
