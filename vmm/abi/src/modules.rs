//! The archive of modules that [`crate::firmware::MODULES`] holds, all numbers little-endian:
//!
//! ```text
//! Header                        16 bytes
//! Entry                         32 bytes, `count` times
//! strings                       up to `head_len`
//! data of the modules           anywhere behind that
//! ```
//!
//! A module's string is its command line, by custom with its name as the first word, and has no NUL.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

/// [`Header::magic`].
pub const MAGIC: [u8; 8] = *b"JIFFYMD1";
/// The most modules in an archive.
pub const COUNT_MAX: u32 = 64;
/// The most that header, entries and strings may take.
pub const HEAD_MAX: u32 = 16 << 10;

/// The start of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Number of modules, at most [`COUNT_MAX`].
    pub count: le::U32,
    /// Bytes of header, entries and strings, at most [`HEAD_MAX`].
    pub head_len: le::U32,
}

const _: () = assert!(size_of::<Header>() == 16);

/// A module. Offsets count from the archive's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// Of its data.
    pub data_offset: le::U64,
    /// Bytes of its data.
    pub data_len: le::U64,
    /// Of its string, which lies within the head.
    pub string_offset: le::U32,
    /// Bytes of its string.
    pub string_len: le::U32,
    /// 0.
    pub reserved: le::U64,
}

const _: () = assert!(size_of::<Entry>() == 32);

/// The header of an archive whose strings take `strings` bytes; `None` if there are too many modules or strings.
#[must_use]
pub fn header(count: usize, strings: usize) -> Option<Header> {
    let count = u32::try_from(count).ok().filter(|&count| count <= COUNT_MAX)?;
    let fixed = size_of::<Header>() + count as usize * size_of::<Entry>();
    let head_len = u32::try_from(fixed.checked_add(strings)?).ok().filter(|&len| len <= HEAD_MAX)?;
    Some(Header { magic: MAGIC, count: count.into(), head_len: head_len.into() })
}
