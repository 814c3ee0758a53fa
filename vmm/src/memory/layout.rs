//! Where RAM is, and what the guest is told about it.

use abi::layout::{self, Range};

/// Kinds of e820 ranges (ACPI 6.5, 15.1, table 15.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Type {
    /// Usable RAM.
    Ram = 1,
    /// Not RAM, or not to be used.
    Reserved = 2,
}

/// One entry of the memory map given to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// Guest-physical addresses.
    pub range: Range,
    /// What is there.
    pub kind: E820Type,
}

/// Guest RAM of a given size, split around the 32-bit hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamLayout {
    size: u64,
}

impl RamLayout {
    /// The layout of `size` bytes of RAM, a multiple of 4 KiB and at least 1 MiB more than the BIOS area
    /// (the configuration checks both).
    #[must_use]
    pub const fn new(size: u64) -> Self {
        Self { size }
    }

    /// RAM below the hole.
    #[must_use]
    pub fn low(&self) -> Range {
        Range::new(0, self.size.min(layout::HOLE.start))
    }

    /// RAM from 4 GiB on, if the hole displaced any.
    #[must_use]
    pub fn high(&self) -> Option<Range> {
        let start = layout::HOLE.end();
        self.size.checked_sub(layout::HOLE.start).filter(|&len| len > 0).map(|len| Range { start, len })
    }

    /// All RAM regions, in ascending order.
    pub fn regions(&self) -> impl Iterator<Item = Range> {
        core::iter::once(self.low()).chain(self.high())
    }

    /// The memory map for the guest, in ascending order: RAM, and the reserved parts in and around it.
    #[must_use]
    pub fn e820(&self) -> Vec<E820Entry> {
        let ram = |range| E820Entry { range, kind: E820Type::Ram };
        let reserved = |range| E820Entry { range, kind: E820Type::Reserved };
        let mut map = vec![
            ram(Range::new(0, layout::EBDA.start)),
            reserved(layout::EBDA),
            reserved(layout::ACPI),
            ram(Range::new(layout::HIGH_RAM_START, self.low().end())),
            reserved(layout::PCI_ECAM),
        ];
        map.extend(self.high().map(ram));
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_map_is_ordered_and_holds_all_ram(pages in 512u64..(64 << 18)) {
            let size = pages << 12;
            let layout = RamLayout::new(size);
            prop_assert_eq!(layout.regions().map(|r| r.len).sum::<u64>(), size);
            prop_assert!(layout.regions().all(|r| !r.overlaps(layout::HOLE)));
            let map = layout.e820();
            prop_assert!(map.windows(2).all(|w| w[0].range.end() <= w[1].range.start));
            let usable: u64 = map.iter().filter(|e| e.kind == E820Type::Ram).map(|e| e.range.len).sum();
            let bios_area = layout::HIGH_RAM_START - layout::EBDA.start;
            prop_assert_eq!(usable, size - bios_area);
            for entry in map.iter().filter(|e| e.kind == E820Type::Ram) {
                prop_assert!(layout.regions().any(|r| r.start <= entry.range.start && entry.range.end() <= r.end()));
            }
        }
    }
}
