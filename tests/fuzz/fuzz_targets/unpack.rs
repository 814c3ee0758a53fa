//! Packed kernels of every compression: they unpack to what was promised, or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::boot::unpack::unpack;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Some((len, packed)) = data.split_last_chunk::<2>().map(|(packed, len)| (len, packed)) else { return };
    let len = usize::from(u16::from_le_bytes(*len));
    let Ok(bytes) = unpack(packed, len) else { return };
    assert_eq!(bytes.len(), len);
    #[cfg(feature = "planted")]
    fuzz::plant(&[bytes.len() > 2, bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>() % 8 == 5]);
});
