//! ELF kernels and their notes: what is accepted can be loaded without looking again, and relocated within itself.
#![no_main]

use std::cell::RefCell;

use firmware::fake::Fake;
use firmware::memory_map::FOUR_GIB;
use firmware::payload::{elf::Elf, pvh, relocate::relocate};
use libfuzzer_sys::fuzz_target;

/// Where files are that can be anywhere, and how large they may be.
const BASE: u64 = 2 << 20;
const LEN: u64 = 64 << 10;

thread_local! {
    // One for all runs: what one leaves in memory counts for nothing in the next.
    static MACHINE: RefCell<Fake> = RefCell::new(machine());
}

fn machine() -> Fake {
    let mut fake = Fake::with_ram((BASE + LEN) as usize);
    fake.mapped.push((BASE, 2 * BASE));
    fake
}

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
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
    if elf.is_movable_x86_64 && elf.extent().end() <= LEN {
        MACHINE.with_borrow_mut(|machine| {
            for segment in &elf.segments {
                let bytes = &data[segment.offset as usize..][..segment.file_len as usize];
                machine.memory[(BASE + segment.addr) as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            let _ = relocate(machine, &elf, BASE);
        });
    }
    #[cfg(feature = "planted")]
    fuzz::plant(&[elf.is_fixed_x86_64, elf.segments.len() == 1, elf.physical_entry().is_none()]);
});
