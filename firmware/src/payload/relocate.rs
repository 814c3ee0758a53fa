//! Position-independent ELF files for x86-64: where they go, and their relocations (System V ABI, AMD64 supplement, 4.4;
//! System V ABI, chapter 5, "Dynamic Section").

use goblin::elf64::dynamic::{DT_NEEDED, DT_NULL, DT_REL, DT_RELA, DT_RELAENT, DT_RELASZ};
use goblin::elf64::reloc::{R_X86_64_NONE, R_X86_64_RELATIVE};

use super::elf::{Elf, Error, Segment};
use crate::machine::Machine;

/// Packed relative relocations, which goblin does not name.
const DT_RELR: u64 = 36;
/// Bytes of an entry of the dynamic section, and of a relocation with an addend.
const ENTRY: u64 = 16;
const RELOCATION: u64 = 24;

/// Whether the loaded file has all of a range of its addresses.
fn has(elf: &Elf, addr: u64, len: u64) -> bool {
    let within = |it: &Segment| {
        addr.checked_sub(it.addr).and_then(|at| at.checked_add(len)).is_some_and(|end| end <= it.mem_len)
    };
    elf.segments.iter().any(within)
}

/// Relocates a file that was loaded `base` above its own addresses, modulo 2^64; there it is mapped.
#[inline(never)]
pub fn relocate(machine: &mut impl Machine, elf: &Elf, base: u64) -> Result<(), Error> {
    let Some(Segment { addr: dynamic, mem_len, .. }) = elf.dynamic else { return Ok(()) };
    if !has(elf, dynamic, mem_len) {
        return Err(Error::Dynamic);
    }
    let (mut table, mut size) = (0, 0);
    for at in (0..mem_len / ENTRY).map(|i| base.wrapping_add(dynamic + i * ENTRY)) {
        let [tag, value] = machine.read::<[u64; 2]>(at);
        match tag {
            DT_NULL => break,
            DT_RELA => table = value,
            DT_RELASZ => size = value,
            DT_RELAENT if value == RELOCATION => {}
            DT_RELAENT | DT_REL | DT_RELR | DT_NEEDED => return Err(Error::Dynamic),
            _ => {}
        }
    }
    if size > 0 && !has(elf, table, size) {
        return Err(Error::Dynamic);
    }
    for at in (0..size / RELOCATION).map(|i| base.wrapping_add(table + i * RELOCATION)) {
        let [addr, info, addend] = machine.read::<[u64; 3]>(at);
        // No symbol, in the upper half, but the null one.
        match info {
            _ if info == R_X86_64_NONE.into() => {}
            _ if info == R_X86_64_RELATIVE.into() && has(elf, addr, 8) => {
                machine.write(base.wrapping_add(addr), base.wrapping_add(addend));
            }
            _ => return Err(Error::Relocation { addr }),
        }
    }
    Ok(())
}
