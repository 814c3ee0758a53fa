//! Where in RAM there is room.

use abi::layout::{self, HIGH_RAM_START, Range};

use super::error::KernelError;
use crate::memory::layout::{E820Type, RamLayout};

/// What is in low RAM for the start, whatever the protocol.
const RESERVED: [Range; 5] =
    [layout::BOOT_GDT, layout::PVH_START_INFO, layout::ZERO_PAGE, layout::BOOT_PAGE_TABLES, layout::CMDLINE];
const PAGE: u64 = 4096;

/// Checks that a segment is in RAM below the 32-bit hole, and clear of what a start needs there.
pub fn check_segment(range: Range, ram: RamLayout) -> Result<(), KernelError> {
    let error = |why| Err(KernelError::Segment { start: range.start, end: range.end(), why });
    let low = ram.low();
    if range.end() > low.end() {
        if range.end() <= layout::HOLE.start {
            return Err(KernelError::Memory { need: range.end(), have: low.end() });
        }
        return error("is not below 3 GiB, where RAM ends or has its hole; link it lower");
    }
    let map = ram.e820();
    let mut usable = map.iter().filter(|entry| entry.kind == E820Type::Ram).map(|entry| entry.range);
    if !usable.any(|free| free.start <= range.start && range.end() <= free.end()) {
        return error("reaches into the BIOS area below 1 MiB; link it at 1 MiB or above");
    }
    if RESERVED.iter().any(|taken| taken.overlaps(range)) {
        return error("is where the boot structures go (0x500 to 0x30000); link it at 1 MiB or above");
    }
    Ok(())
}

/// The highest page-aligned range of `len` bytes between 1 MiB and `limit` that is clear of `taken`; or else the
/// length of the longest such range.
pub fn place_high(len: u64, limit: u64, taken: &[Range]) -> Result<Range, u64> {
    let mut taken: Vec<Range> = taken.iter().copied().filter(|range| range.start < limit).collect();
    taken.sort_by_key(|range| range.end());
    let mut longest = 0;
    let mut top = limit;
    loop {
        let below = taken.pop();
        let bottom = below.map_or(HIGH_RAM_START, |range| range.end().max(HIGH_RAM_START));
        let bottom = bottom.next_multiple_of(PAGE);
        let room = (top & !(PAGE - 1)).saturating_sub(bottom);
        if room >= len {
            return Ok(Range { start: (top - len) & !(PAGE - 1), len });
        }
        longest = longest.max(room);
        match below {
            Some(range) => top = top.min(range.start),
            None => return Err(longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_above_below_and_between() {
        const MIB: u64 = 1 << 20;
        let taken = [Range::new(16 * MIB, 20 * MIB), Range::new(4 * MIB, 5 * MIB)];
        let start = |len| place_high(len, 32 * MIB, &taken).map(|range| range.start);
        assert_eq!(start(12 * MIB), Ok(20 * MIB));
        assert_eq!(start(4097), Ok(32 * MIB - 8192));
        assert_eq!(start(12 * MIB + 1), Err(12 * MIB));
        assert_eq!(place_high(11 * MIB, 22 * MIB, &taken).map(|range| range.start), Ok(5 * MIB));
        assert_eq!(place_high(3 * MIB, 5 * MIB, &taken).map(|range| range.start), Ok(MIB));
    }

    proptest! {
        #[test]
        fn what_is_placed_is_clear(
            len in 1..40u64 << 20,
            limit in 0..64u64 << 20,
            taken in prop::collection::vec((0..60u64, 1..4096 * 4096u64), 0..6),
        ) {
            let mut end = 0;
            let taken: Vec<Range> = taken
                .into_iter()
                .map(|(gap, len)| {
                    let range = Range { start: end + gap * 65536, len };
                    end = range.end();
                    range
                })
                .collect();
            match place_high(len, limit, &taken) {
                Ok(range) => {
                    prop_assert!(range.start >= HIGH_RAM_START && range.start % PAGE == 0);
                    prop_assert!(range.end() <= limit && !taken.iter().any(|other| other.overlaps(range)));
                }
                Err(longest) => {
                    prop_assert!(longest < len);
                    prop_assert!(longest == 0 || place_high(longest, limit, &taken).is_ok());
                }
            }
        }
    }
}
