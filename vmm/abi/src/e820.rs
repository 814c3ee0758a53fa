//! The memory map, as the BIOS call of that name gives it (ACPI 6.5, 15.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

/// What a range of memory is; a value without a name is data, not an error.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Kind(pub le::U32);

impl Kind {
    /// Memory that anyone may use.
    pub const RAM: Self = Self(le::U32::new(1));
    /// Not to be used.
    pub const RESERVED: Self = Self(le::U32::new(2));
    /// ACPI tables: memory once they were read.
    pub const ACPI: Self = Self(le::U32::new(3));
    /// To be kept over sleep states.
    pub const NVS: Self = Self(le::U32::new(4));
}

/// A range, as BIOS, `etc/e820` and Linux's zero page hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// First address.
    pub addr: le::U64,
    /// Bytes.
    pub size: le::U64,
    /// What it is.
    pub kind: Kind,
}

const _: () = assert!(size_of::<Entry>() == 20);
