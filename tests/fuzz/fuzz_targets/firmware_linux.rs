//! Setup headers of Linux: what old versions do not have is not taken from what stands there.
#![no_main]

use firmware::payload::linux::{KERNEL_64, SetupHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Some(header) = SetupHeader::find(data) else { return };
    assert!((512..=256 * 512).contains(&header.setup_len()));
    let version = header.version.get();
    assert!(version >= 0x020c || header.xloadflags.get() & KERNEL_64 == 0);
    assert!(version >= 0x0205 || header.relocatable_kernel == 0);
    #[cfg(feature = "planted")]
    fuzz::plant(&[version >= 0x0206, header.relocatable_kernel != 0, header.setup_sects > 0x40]);
});
