//! ELF notes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::boot::note::Notes;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Some((align, data)) = data.split_first() else { return };
    let notes = Notes::parse(data, u64::from(*align));
    assert_eq!(notes, Notes::parse(data, u64::from(*align)));
    #[cfg(feature = "planted")]
    fuzz::plant(&[notes.is_linux, notes.pvh_entry.is_some_and(|entry| entry != 0x10_0010)]);
});
