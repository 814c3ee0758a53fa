//! Setup headers of a `bzImage`: what is accepted lies within the file, and goes where there is RAM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::boot::bzimage::BzImage;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Ok(image) = BzImage::parse(data) else { return };
    let size = data.len() as u64;
    assert!(image.protected.end() <= size && image.payload.end() <= size);
    for low in [1 << 20, 64 << 20, 3 << 30] {
        if let Ok(range) = image.load_range(low) {
            assert!(range.start >= 1 << 20 && range.end() <= low && range.len >= image.protected.len);
        }
    }
    let payload = &data[image.payload.start as usize..image.payload.end() as usize];
    if let Ok(len) = image.unpacked_len(payload) {
        assert!(len as u64 <= u64::from(image.setup.init_size));
    }
    #[cfg(feature = "planted")]
    fuzz::plant(&[{ image.setup.cmdline_size } != 2047, { image.setup.initrd_addr_max } != 0x7fff_ffff]);
});
