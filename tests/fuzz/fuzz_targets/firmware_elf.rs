//! ELF kernels and their notes: what is accepted can be loaded without looking again.
#![no_main]

use firmware::memory_map::FOUR_GIB;
use firmware::payload::{elf::Elf, pvh};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let note = pvh::find(data, 4);
    assert!(note.is_none() || data.len() >= 20);
    let _ = pvh::find(data, 8);
    let len = data.len() as u32;
    let Ok(elf) = Elf::parse(data, len) else { return };
    assert!(!elf.segments.is_empty());
    for (i, one) in elf.segments.iter().enumerate() {
        assert!(one.offset + one.file_len <= len && u64::from(one.file_len) <= one.mem_len);
        assert!(one.addr + one.mem_len <= FOUR_GIB);
        let apart = |it: &&firmware::payload::elf::Segment| {
            it.addr + it.mem_len <= one.addr || one.addr + one.mem_len <= it.addr
        };
        assert_eq!(elf.segments[..i].iter().filter(apart).count(), i);
    }
    if let Some(entry) = elf.physical_entry() {
        assert!(elf.segments.iter().any(|it| it.addr <= entry && entry < it.addr + it.mem_len));
    }
    #[cfg(feature = "planted")]
    fuzz::plant(&[elf.is_fixed_x86_64, elf.segments.len() == 1, elf.physical_entry().is_none()]);
});
