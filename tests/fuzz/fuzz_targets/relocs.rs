//! Relocation tables: words changed piece by piece are changed as in one go.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::boot::elf::{Elf, Segment};
use vmm::boot::note::Notes;
use vmm::boot::relocs::Relocs;

const START: u64 = 16 << 20;
const LEN: usize = 0x1000;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Some((cut, table)) = data.split_last_chunk::<2>().map(|(table, cut)| (cut, table)) else { return };
    let segment = Segment { addr: START, mem_len: LEN as u64, offset: 0, file_len: LEN as u64 };
    let elf = Elf { is_64bit: true, entry: START, segments: vec![segment], notes: Notes::default() };
    let Ok(relocs) = Relocs::parse(table, &elf) else { return };
    let offset = 0x1234_5678_9abc_def0;
    let mut whole = [0; LEN];
    relocs.apply(offset, START, &mut whole);
    let mut pieces = [0; LEN];
    let cut = relocs.boundary(START + u64::from(u16::from_le_bytes(*cut)) % LEN as u64);
    let (first, second) = pieces.split_at_mut((cut - START) as usize);
    relocs.apply(offset, START, first);
    relocs.apply(offset, cut, second);
    assert!(whole == pieces);
    #[cfg(feature = "planted")]
    fuzz::plant(&[relocs.sub32.len() == 1, relocs.add64.len() == 1, cut - START > 0x800]);
});
