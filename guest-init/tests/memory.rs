//! The memory functions of programs without a C library, against loops that anybody can check. In this test they
//! replace those of the C library.
#![allow(unsafe_code, reason = "functions on raw memory")]

use std::arch::global_asm;
use std::ffi::{c_char, c_int};
use std::hint::black_box;

use proptest::prelude::*;

global_asm!(include_str!("../../vmm/abi/src/memory.S"));

unsafe extern "C" {
    fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    fn memset(to: *mut u8, value: c_int, count: usize) -> *mut u8;
    fn memcmp(a: *const u8, b: *const u8, count: usize) -> c_int;
    fn bcmp(a: *const u8, b: *const u8, count: usize) -> c_int;
    fn strlen(string: *const c_char) -> usize;
}

const LEN: usize = 100;

/// Two places and a length, so that both ranges are within `LEN` bytes.
fn ranges() -> impl Strategy<Value = (usize, usize, usize)> {
    (0..=LEN, 0..=LEN).prop_flat_map(|(a, b)| (Just(a), Just(b), 0..=LEN - a.max(b)))
}

/// `bytes` after a copy within it, byte by byte from another array.
fn copied(bytes: [u8; LEN], to: usize, from: usize, count: usize) -> [u8; LEN] {
    std::array::from_fn(|i| if (to..to + count).contains(&i) { bytes[i - to + from] } else { bytes[i] })
}

fn bytes() -> impl Strategy<Value = [u8; LEN]> {
    prop::collection::vec(any::<u8>(), LEN).prop_map(|bytes| std::array::from_fn(|i| bytes[i]))
}

proptest! {
    #[test]
    fn memmove_takes_overlapping_ranges(mut memory in bytes(), (to, from, count) in ranges()) {
        let expected = copied(memory, to, from, count);
        let start = memory.as_mut_ptr();
        // SAFETY: both ranges are within `memory`.
        let result = unsafe { memmove(start.wrapping_add(to), start.wrapping_add(from), count) };
        prop_assert_eq!(result, start.wrapping_add(to));
        prop_assert!((0..LEN).all(|i| black_box(memory[i]) == expected[i]), "{:?} {:?}", memory, expected);
    }

    #[test]
    fn memcpy_copies_between_arrays(mut memory in bytes(), source in bytes(), (to, from, count) in ranges()) {
        let before = memory;
        // SAFETY: both ranges are within their arrays.
        unsafe { memcpy(memory.as_mut_ptr().wrapping_add(to), source.as_ptr().wrapping_add(from), count) };
        for i in 0..LEN {
            let expected = if (to..to + count).contains(&i) { source[i - to + from] } else { before[i] };
            prop_assert_eq!(black_box(memory[i]), expected, "byte {}", i);
        }
    }

    #[test]
    fn memset_fills_and_no_more(mut memory in bytes(), (to, _, count) in ranges(), value in any::<c_int>()) {
        let before = memory;
        let start = memory.as_mut_ptr().wrapping_add(to);
        // SAFETY: the range is within `memory`.
        prop_assert_eq!(unsafe { memset(start, value, count) }, start);
        for i in 0..LEN {
            let expected = if (to..to + count).contains(&i) { value as u8 } else { before[i] };
            prop_assert_eq!(black_box(memory[i]), expected, "byte {}", i);
        }
    }

    #[test]
    fn comparisons_find_the_first_difference(
        a in bytes(),
        changes in prop::collection::vec((0..LEN, any::<u8>()), 0..3),
        (at, _, count) in ranges(),
    ) {
        let mut b = a;
        for (i, value) in changes {
            b[i] = value;
        }
        let expected = (at..at + count).find(|&i| a[i] != b[i]).map_or(0, |i| i32::from(a[i]) - i32::from(b[i]));
        let (a, b) = (a.as_ptr().wrapping_add(at), b.as_ptr().wrapping_add(at));
        // SAFETY: both ranges are within their arrays.
        prop_assert_eq!(unsafe { memcmp(a, b, count) }.signum(), expected.signum());
        // SAFETY: as above.
        prop_assert_eq!(unsafe { bcmp(a, b, count) } == 0, expected == 0);
    }

    #[test]
    fn strlen_stops_at_the_first_nul(string in "[^\0]{0,40}", rest in "\\PC{0,10}") {
        let bytes = format!("{string}\0{rest}\0");
        // SAFETY: there is a NUL.
        prop_assert_eq!(unsafe { strlen(bytes.as_ptr().cast()) }, string.len());
    }
}
