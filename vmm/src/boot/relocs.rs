//! The relocations of an unpacked kernel: words that depend on its virtual address. They follow the ELF file in
//! the payload (Linux, `arch/x86/boot/compressed/misc.c`, `handle_relocations`, and `arch/x86/tools/relocs.c`).

use std::ops::Range;

use super::elf::{Elf, Segment};
use super::error::KernelError;

/// Linux's `__START_KERNEL_map`, its low half: virtual address minus this is physical address.
const START_KERNEL_MAP: u32 = 0x8000_0000;
/// A hundred times what a large kernel has.
const MAX_WORDS: usize = 1 << 25;

/// Which words a virtual offset changes, by kind: guest-physical addresses of a kernel at the address it was linked
/// for, each set ascending, no two words overlapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocs {
    /// 32-bit words to which the offset is added.
    pub add32: Vec<u32>,
    /// 32-bit words from which it is subtracted: per-CPU relative addresses before Linux 6.15.
    pub sub32: Vec<u32>,
    /// 64-bit words to which it is added.
    pub add64: Vec<u32>,
}

impl Relocs {
    /// Parses the table that follows the ELF file `elf`. The table is read backwards: the 32-bit words, 0,
    /// \[the inverse ones, 0, before Linux 6.15\], the 64-bit ones, 0 at its very start. No table, or
    /// mere padding, is a kernel built without CONFIG_RANDOMIZE_BASE: it has no relocations.
    pub fn parse(table: &[u8], elf: &Elf) -> Result<Self, KernelError> {
        let error = |index, why| KernelError::Relocations { index, why };
        if table.iter().all(|&byte| byte == 0) {
            return Ok(Self::default());
        }
        let (words, []) = table.as_chunks::<4>() else {
            return Err(error(table.len() / 4, "its length is not a multiple of 4"));
        };
        if words.len() > MAX_WORDS {
            return Err(error(words.len(), "more words than a kernel has"));
        }
        let Some((first, words)) = words.split_first() else { return Ok(Self::default()) };
        if *first != [0; 4] {
            return Err(error(0, "not 0"));
        }
        // From the start: 64-bit, [inverse], 32-bit.
        let mut sets = Vec::with_capacity(3);
        for set in words.split(|word| *word == [0; 4]) {
            if sets.len() == 3 {
                return Err(error(table.len() / 4, "more than three sets"));
            }
            sets.push(set);
        }
        let index = |set: &[[u8; 4]]| (set.as_ptr().addr() - table.as_ptr().addr()) / 4;
        let parse = |set: &[[u8; 4]], width| {
            addresses(set, width, &elf.segments).map_err(|(at, why)| error(index(set) + at, why))
        };
        let (add64, sub32, add32) = match sets[..] {
            [add64, sub32, add32] => (parse(add64, 8)?, parse(sub32, 4)?, parse(add32, 4)?),
            [add64, add32] => (parse(add64, 8)?, Vec::new(), parse(add32, 4)?),
            _ => return Err(error(table.len() / 4, "fewer than two sets")),
        };
        let relocs = Self { add32, sub32, add64 };
        let mut words: Vec<_> = relocs.words_in(0..u64::MAX).map(|word| (word.start, word.end)).collect();
        words.sort_unstable();
        if words.windows(2).any(|two| two[0].1 > two[1].0) {
            return Err(error(1, "two of its words overlap"));
        }
        Ok(relocs)
    }

    /// Whether there is nothing to relocate.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.add32.is_empty() && self.sub32.is_empty() && self.add64.is_empty()
    }

    /// The changed words that start in `range`, each as a range of addresses.
    pub fn words_in(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.sets().into_iter().flat_map(move |(set, width)| {
            let index = |address| set.partition_point(|&at| u64::from(at) < address);
            let words = &set[index(range.start)..index(range.end)];
            words.iter().map(move |&at| u64::from(at)..u64::from(at) + width)
        })
    }

    /// The sets, each with the width of its words in bytes.
    const fn sets(&self) -> [(&Vec<u32>, u64); 3] {
        [(&self.add32, 4), (&self.sub32, 4), (&self.add64, 8)]
    }

    /// The largest address up to `end` that does not cut a changed word in two.
    #[must_use]
    pub fn boundary(&self, mut end: u64) -> u64 {
        loop {
            let cut = self.sets().into_iter().find_map(|(set, width)| {
                let from = set.partition_point(|&at| u64::from(at) + width <= end);
                set.get(from).map(|&at| u64::from(at)).filter(|&at| at < end)
            });
            match cut {
                Some(at) => end = at,
                None => return end,
            }
        }
    }

    /// Adds `offset` to the words in `bytes`, which are those from address `start` on.
    pub fn apply(&self, offset: u64, start: u64, bytes: &mut [u8]) {
        let low = offset as u32;
        each::<4>(&self.add32, start, bytes, |word| u32::from_le_bytes(word).wrapping_add(low).to_le_bytes());
        each::<4>(&self.sub32, start, bytes, |word| u32::from_le_bytes(word).wrapping_sub(low).to_le_bytes());
        each::<8>(&self.add64, start, bytes, |word| {
            u64::from_le_bytes(word).wrapping_add(offset).to_le_bytes()
        });
    }
}

/// Changes each word of `set` that is wholly in `bytes`.
fn each<const N: usize>(set: &[u32], start: u64, bytes: &mut [u8], change: impl Fn([u8; N]) -> [u8; N]) {
    let from = set.partition_point(|&at| u64::from(at) < start);
    for &at in &set[from..] {
        let offset = (u64::from(at) - start) as usize;
        let Some(word) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) else { return };
        *word = change(*word);
    }
}

/// Turns a set of virtual addresses, each the low half of a kernel address, into ascending physical addresses
/// of words that are wholly in a segment.
fn addresses(set: &[[u8; 4]], width: u64, segments: &[Segment]) -> Result<Vec<u32>, (usize, &'static str)> {
    let mut found = Vec::with_capacity(set.len());
    for (index, word) in set.iter().enumerate() {
        let at = u32::from_le_bytes(*word)
            .checked_sub(START_KERNEL_MAP)
            .ok_or((index, "not in the kernel's mapping"))?;
        let segment = segments.partition_point(|s| s.addr <= u64::from(at)).checked_sub(1);
        let inside = segment.is_some_and(|s| u64::from(at) + width <= segments[s].file_end());
        if !inside {
            return Err((index, "outside the kernel"));
        }
        found.push(at);
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{ElfFile, LINKED, table};
    use super::*;

    const LEN: usize = 0x1000;

    fn parse(table: &[u8]) -> Result<Relocs, KernelError> {
        Relocs::parse(table, &Elf::parse(&ElfFile::new(LINKED, vec![0; LEN]).build()[..]).unwrap())
    }

    #[test]
    fn reads_two_sets_or_three() {
        let at = |offset: u64| (LINKED + offset) as u32;
        let three = parse(&table(&[&[LINKED + 16], &[LINKED + 8], &[LINKED + 4, LINKED]])).unwrap();
        assert_eq!(three, Relocs { add32: vec![at(0), at(4)], sub32: vec![at(8)], add64: vec![at(16)] });
        let two = parse(&table(&[&[LINKED + 16], &[LINKED]])).unwrap();
        assert_eq!(two, Relocs { add32: vec![at(0)], sub32: vec![], add64: vec![at(16)] });
        assert!(parse(&[]).unwrap().is_empty());
        assert!(parse(&table(&[&[], &[], &[]])).unwrap().is_empty());
    }

    #[test]
    fn refuses_unsound_tables() {
        let word = |value: u32| value.to_le_bytes().to_vec();
        let end = LINKED + LEN as u64;
        let cases = [
            (vec![1; 7], "not a multiple of 4"),
            (word(1), "at word 0: not 0"),
            (table(&[&[LINKED]]), "fewer than two sets"),
            (table(&[&[LINKED], &[], &[], &[]]), "more than three sets"),
            (table(&[&[], &[LINKED, end]]), "at word 3: outside the kernel"),
            (table(&[&[end - 7], &[]]), "at word 1: outside the kernel"),
            (table(&[&[], &[LINKED - 1]]), "outside the kernel"),
            (table(&[&[], &[0x8000_0001]]), "not in the kernel's mapping"),
            (table(&[&[LINKED], &[LINKED + 7]]), "overlap"),
            (table(&[&[], &[LINKED, LINKED]]), "overlap"),
        ];
        for (table, expected) in cases {
            let error = parse(&table).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} has no {expected:?}");
        }
    }

    proptest! {
        /// Words changed piece by piece are changed as by the plain rule, wherever the pieces end.
        #[test]
        fn pieces_make_the_whole(
            kinds in prop::collection::vec(0..4u8, LEN / 8),
            offset in 0..1u64 << 30,
            cuts in prop::collection::vec(1..LEN as u64, 0..8),
        ) {
            let mut sets = [vec![], vec![], vec![]];
            let mut expected: Vec<u8> = (0..LEN).map(|i| (i * 7) as u8).collect();
            let mut bytes = expected.clone();
            for (slot, &kind) in kinds.iter().enumerate().filter(|(_, kind)| **kind < 3) {
                let at = slot * 8;
                sets[usize::from(kind)].push(LINKED + at as u64);
                let width = if kind == 0 { 8 } else { 4 };
                let mut word = [0; 8];
                word[..width].copy_from_slice(&expected[at..at + width]);
                let word = u64::from_le_bytes(word);
                let changed = if kind == 1 { word.wrapping_sub(offset) } else { word.wrapping_add(offset) };
                expected[at..at + width].copy_from_slice(&changed.to_le_bytes()[..width]);
            }
            let relocs = parse(&table(&[&sets[0], &sets[1], &sets[2]])).unwrap();
            let mut ends: Vec<u64> = cuts.iter().map(|cut| relocs.boundary(LINKED + cut)).collect();
            ends.push(LINKED + LEN as u64);
            ends.sort_unstable();
            let mut start = LINKED;
            for end in ends {
                let piece = &mut bytes[(start - LINKED) as usize..(end - LINKED) as usize];
                relocs.apply(offset, start, piece);
                start = end;
            }
            prop_assert_eq!(bytes, expected);
        }
    }
}
