//! Checksums.
#![allow(unsafe_code, reason = "vector instructions, which are functions that not every processor has")]

use core::arch::x86_64::{_mm_add_epi64, _mm_cvtsi128_si64, _mm_sad_epu8};
use core::arch::x86_64::{_mm_set_epi64x, _mm_setzero_si128, _mm_unpackhi_epi64};

/// Sum of bytes, modulo 256. Tables have thousands of them, and one instruction adds sixteen.
#[must_use]
pub fn sum(bytes: &[u8]) -> u8 {
    // SAFETY: every x86-64 processor has SSE2.
    unsafe { sum_sse2(bytes) }
}

#[target_feature(enable = "sse2")]
fn sum_sse2(bytes: &[u8]) -> u8 {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let zero = _mm_setzero_si128();
    let sums = chunks.iter().fold(zero, |sums, chunk| {
        let [low, high]: [i64; 2] = zerocopy::transmute!(*chunk);
        _mm_add_epi64(sums, _mm_sad_epu8(_mm_set_epi64x(high, low), zero))
    });
    let sum = _mm_cvtsi128_si64(_mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums))) as u8;
    rest.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::sum;
    use std::vec::Vec;

    #[test]
    fn sums_of_all_lengths() {
        let bytes: Vec<u8> = (0..200u32).map(|i| (i * i + 250) as u8).collect();
        for len in 0..bytes.len() {
            for from in 0..=len {
                let expected = bytes[from..len].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                assert_eq!(sum(&bytes[from..len]), expected);
            }
        }
    }
}
