//! QEMU's generic host bridge, which microvm has: no chipset is around it. Its configuration space is in memory at a
//! fixed place, and the device tree says which addresses its devices may have (Linux, `host-generic-pci.yaml`).

use abi::layout::{PCI_ECAM, Range};

use super::Windows;
use super::config::{Access, Function};
use super::scan::map_bus;
use crate::error::Error;
use crate::fw_cfg::{Files, FwCfg};
use crate::machine::Machine;
use crate::places::HEAD;

/// Vendor and device.
const HOST_BRIDGE: u32 = 0x0008_1b36;
/// Its configuration space; what of it the first bus takes is mapped once it was found.
pub const ACCESS: Access = Access::Memory(PCI_ECAM.start);

/// Looks for it; `None` as well if nobody says which addresses there are.
#[inline(never)]
pub fn find(machine: &mut impl Machine, fw_cfg: &FwCfg, files: &Files) -> Result<Option<Windows>, Error> {
    let Some(tree) = files.fdt else { return Ok(None) };
    map_bus(machine, ACCESS, 0);
    if ACCESS.read_u32(machine, Function::new(0, 0, 0), 0) != HOST_BRIDGE {
        return Ok(None);
    }
    let len = tree.size.min(HEAD.len as u32);
    fw_cfg.read(machine, tree.select, 0, HEAD.start, len)?;
    Ok(windows(machine.bytes(HEAD.start, len as usize)))
}

/// Tokens of a tree's structure (Devicetree Specification 0.4, 5.4.1).
mod token {
    pub const BEGIN_NODE: u32 = 1;
    pub const END_NODE: u32 = 2;
    pub const PROPERTY: u32 = 3;
    pub const NOP: u32 = 4;
}

const MAGIC: u32 = 0xd00d_feed;
const NODE: &[u8] = b"pcie@";
const PROPERTY: &[u8] = b"ranges\0";
/// Bytes of a range: three cells for the bus's address, two for the processor's, two for the size.
const RANGE_LEN: usize = 28;
/// Of a range's first cell: what it is for (IEEE 1275, PCI bus binding, 2.2.1.1).
const SPACE: u32 = 0b11 << 24;
const MEMORY_32: u32 = 0b10 << 24;
const MEMORY_64: u32 = 0b11 << 24;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The addresses of a device tree's PCI bridge.
#[must_use]
pub fn windows(tree: &[u8]) -> Option<Windows> {
    if word(tree, 0)? != MAGIC {
        return None;
    }
    let (mut at, strings) = (word(tree, 8)? as usize, word(tree, 12)? as usize);
    let mut in_bridge = false;
    loop {
        let token = word(tree, at)?;
        at += 4;
        match token {
            token::BEGIN_NODE => {
                let name = tree.get(at..)?;
                in_bridge = name.starts_with(NODE);
                at += (name.iter().position(|&byte| byte == 0)? + 1).next_multiple_of(4);
            }
            token::PROPERTY => {
                let (len, name) = (word(tree, at)? as usize, word(tree, at + 4)? as usize);
                at += 8;
                let value = tree.get(at..at.checked_add(len)?)?;
                if in_bridge && tree.get(strings.checked_add(name)?..)?.starts_with(PROPERTY) {
                    return ranges(value);
                }
                at += len.next_multiple_of(4);
            }
            token::END_NODE => in_bridge = false,
            token::NOP => {}
            _ => return None,
        }
    }
}

fn ranges(value: &[u8]) -> Option<Windows> {
    let (mut low, mut high) = (None, None);
    for range in value.as_chunks::<RANGE_LEN>().0 {
        let long = |at| Some(u64::from(word(range, at)?) << 32 | u64::from(word(range, at + 4)?));
        let (bus, start, len) = (long(4)?, long(12)?, long(20)?);
        // A bridge that translates is none that can be told of in ACPI as this one is.
        let end = start.checked_add(len).filter(|&end| end > start && bus == start)?;
        match word(range, 0)? & SPACE {
            MEMORY_32 if end <= crate::memory_map::FOUR_GIB => low = Some(Range::new(start, end)),
            MEMORY_64 => high = Some(Range::new(start, end)),
            _ => {}
        }
    }
    let low = low?;
    Some(Windows { io: None, low, high: high.unwrap_or(Range { start: low.end(), len: 0 }) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A tree with a node of this name, which has one property.
    fn tree(node: &[u8; 8], property: &[u8; 8], value: &[u32]) -> Vec<u8> {
        let mut cells = std::vec![MAGIC, 0, 40, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4, 1];
        let words = |text: &[u8; 8]| {
            [0, 4].map(|at| u32::from_be_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]))
        };
        cells.extend(words(node));
        cells.extend([3, value.len() as u32 * 4, 0]);
        cells.extend(value);
        cells.extend([2, 2, 9]);
        cells[3] = cells.len() as u32 * 4;
        cells.extend(words(property));
        cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
    }

    #[test]
    fn ranges_of_a_bridge() {
        let low = [0x0200_0000, 0, 0xc000_0000, 0, 0xc000_0000, 0, 0x2000_0000];
        let high = [0x0300_0000, 8, 0, 8, 0, 4, 0];
        let both = tree(b"pcie@e\0\0", b"ranges\0\0", &[low, high].concat());
        let found = windows(&both).expect("a bridge");
        assert_eq!((found.low, found.io), (Range::new(0xc000_0000, 0xe000_0000), None));
        assert_eq!(found.high, Range::new(8 << 32, 12 << 32));
        assert_eq!(windows(&tree(b"other@e\0", b"ranges\0\0", &low)), None);
        assert_eq!(windows(&tree(b"pcie@e\0\0", b"reg\0\0\0\0\0", &low)), None);
        for len in 0..both.len() {
            let _ = windows(&both[..len]);
        }
    }
}
