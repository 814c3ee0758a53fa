//! ELF kernels: what is accepted can be placed without looking again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::boot::elf::{self, Elf};

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let end = elf::content_end(data).unwrap_or(0);
    assert!(end <= data.len() as u64);
    let Ok(elf) = Elf::parse(data) else { return };
    assert!(!elf.segments.is_empty());
    for segment in &elf.segments {
        assert!(segment.mem_len > 0 && segment.file_len <= segment.mem_len);
        assert!(segment.offset + segment.file_len <= data.len() as u64 || segment.file_len == 0);
    }
    assert!(elf.segments.windows(2).all(|two| two[0].end() <= two[1].addr));
    #[cfg(feature = "planted")]
    fuzz::plant(&[elf.is_64bit, elf.entry != elf.extent().0, elf.notes == Default::default()]);
});
