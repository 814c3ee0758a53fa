//! What a firmware reads of fw_cfg in any case, in one item of Jiffy's own: one transfer instead of a dozen, each of
//! which is an exit. All numbers are little-endian:
//!
//! ```text
//! Header                        16 bytes
//! Entry                         8 bytes, `count` times
//! first bytes of items          up to LEN
//! ```
//!
//! QEMU's device has no such item, and gives zeros.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

/// Selector of the item: behind all that QEMU's device can have.
pub const KEY: u16 = 0x3fff;
/// [`Header::magic`].
pub const MAGIC: [u8; 8] = *b"JIFFYFC1";
/// Bytes of a bundle, at most; as many are read.
pub const LEN: usize = 8 << 10;
/// The most items in a bundle.
pub const COUNT_MAX: usize = 32;
/// How much of a kernel's setup ([`crate::fw_cfg::key::SETUP_DATA`]) is in it, zeros behind its end included.
pub const SETUP_LEN: usize = 0x280;

/// The start of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Number of entries, at most [`COUNT_MAX`].
    pub count: le::U32,
    /// 0.
    pub reserved: le::U32,
}

const _: () = assert!(size_of::<Header>() == 16);

/// The first bytes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// The item.
    pub select: le::U16,
    /// How many there are.
    pub len: le::U16,
    /// Where, from the bundle's start.
    pub offset: le::U32,
}

const _: () = assert!(size_of::<Entry>() == 8);
