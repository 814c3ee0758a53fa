//! Cached kernels: a damaged one is refused, or its tables are as long as it says.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmm::boot::cache::Key;
use vmm::boot::image::Image;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let file = Arc::into_inner(fuzz::file(data)).expect("the only one");
    let Ok(Some(image)) = Image::open(file, &Key::default(), true) else { return };
    let tables = image.runs.len() * 24 + (image.relocs.add32.len() + image.relocs.sub32.len()) * 4;
    assert!(tables + image.relocs.add64.len() * 4 <= data.len());
    #[cfg(feature = "planted")]
    fuzz::plant(&[
        image.entry & 2 != 0,
        image.extent.0 & 4 != 0,
        image.pvh_entry.is_some_and(|entry| entry & 8 != 0),
    ]);
});
