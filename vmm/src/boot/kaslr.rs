//! Where in its virtual window an unpacked kernel goes (Linux, `arch/x86/boot/compressed/kaslr.c`,
//! `find_random_virt_addr`). Its physical place stays: with paging by the host, it hides nothing.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use super::bzimage::{BzImage, KERNEL_IMAGE_SIZE};
use crate::config::Kaslr;

/// Draws the offset that is added to a kernel's virtual addresses; `None` if it stays where it was linked.
pub fn offset(kaslr: Kaslr, image: &BzImage, cmdline: &str) -> io::Result<Option<u64>> {
    // The kernel's own decompressor heeds this word, and now stands aside.
    if cmdline.split_ascii_whitespace().any(|word| word == "nokaslr") {
        return Ok(None);
    }
    let taken = image.setup.pref_address + u64::from(image.setup.init_size);
    let Some(room) = KERNEL_IMAGE_SIZE.checked_sub(taken) else { return Ok(None) };
    let slots = room / image.alignment() + 1;
    let number = match kaslr {
        Kaslr::Off => return Ok(None),
        Kaslr::Random => random()?,
        Kaslr::Seed(seed) => mix(seed),
    };
    Ok(Some(number % slots * image.alignment()))
}

/// 64 bits from the host.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // Up to 256 bytes come whole or not at all (`getrandom(2)`).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Spreads a seed over 64 bits (SplitMix64), so that 1, 2, 3 give offsets far apart.
const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
