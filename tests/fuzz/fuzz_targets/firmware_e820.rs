//! Memory maps: in ascending order and apart, whatever is cut out of them.
#![no_main]

use abi::e820::Kind;
use firmware::memory_map::{FOUR_GIB, MemoryMap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Some((cuts, bytes)) = data.split_first_chunk::<4>() else { return };
    let mut map = MemoryMap::default();
    if map.parse(bytes).is_err() {
        return;
    }
    let [start, len, at, bits] = cuts.map(u64::from);
    let (start, end) = (start << 16, (start + len + 1) << 16);
    if map.set(start, end, Kind::RESERVED).is_err() {
        return;
    }
    assert!(map.areas().iter().all(|area| area.start < area.end));
    assert!(map.areas().windows(2).all(|two| two[0].end <= two[1].start));
    assert!(!map.is_ram(start, end));
    if let Some(found) = map.find_bottom(at << 12, 1 << (bits & 31), 0, FOUR_GIB) {
        assert!(map.is_free(found, found + (at << 12)));
    }
    #[cfg(feature = "planted")]
    fuzz::plant(&[map.areas().len() == 3, map.areas()[0].kind == Kind::RAM, end > FOUR_GIB >> 9]);
});
