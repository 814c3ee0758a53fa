//! The commands of the script.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, little_endian as le};

use super::Error;
use crate::fw_cfg::Name;

/// Bytes of a command.
pub const LEN: usize = 128;
/// A command, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Padding.
    Nothing,
    /// Reads a file into memory.
    Allocate {
        /// The file.
        file: Name,
        /// Power of two.
        align: u32,
        /// Where.
        zone: Zone,
    },
    /// Adds the address of `src` to a field of `dest`.
    AddPointer {
        /// Whose field.
        dest: Name,
        /// Whose address.
        src: Name,
        /// Of the field.
        offset: u32,
        /// Of the field: 1, 2, 4 or 8.
        size: u8,
    },
    /// Subtracts the sum of a range from a byte.
    AddChecksum {
        /// The file.
        file: Name,
        /// Of the byte.
        offset: u32,
        /// Of the range.
        start: u32,
        /// Of the range.
        len: u32,
    },
    /// Writes the address of a place in `src` to the device's file `dest`.
    WritePointer {
        /// The device's file.
        dest: Name,
        /// Whose address.
        src: Name,
        /// Where in `dest`.
        dest_offset: u32,
        /// Where in `src`.
        src_offset: u32,
        /// Bytes of the pointer: 1, 2, 4 or 8.
        size: u8,
    },
}

/// Where a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Anywhere below 4 GiB.
    High,
    /// Where old systems look for it: the F segment.
    FSegment,
}

impl Command {
    /// From its bytes; `index` is for errors alone.
    pub fn parse(index: u32, bytes: &[u8; LEN]) -> Result<Self, Error> {
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct Raw {
            command: le::U32,
            first: Name,
            body: [u8; LEN - 60],
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct Allocate {
            align: le::U32,
            zone: u8,
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct AddPointer {
            src: Name,
            offset: le::U32,
            size: u8,
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct AddChecksum {
            offset: le::U32,
            start: le::U32,
            len: le::U32,
        }
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        struct WritePointer {
            src: Name,
            dest_offset: le::U32,
            src_offset: le::U32,
            size: u8,
        }
        let raw: &Raw = zerocopy::transmute_ref!(bytes);
        let unknown = Err(Error::Unknown { index, command: raw.command.get() });
        Ok(match raw.command.get() {
            0 => Self::Nothing,
            1 => {
                let Ok((it, _)) = Allocate::ref_from_prefix(&raw.body) else { return unknown };
                let zone = match it.zone {
                    1 => Zone::High,
                    2 => Zone::FSegment,
                    zone => return Err(Error::Zone { index, zone, align: it.align.get() }),
                };
                if !it.align.get().is_power_of_two() {
                    return Err(Error::Zone { index, zone: it.zone, align: it.align.get() });
                }
                Self::Allocate { file: raw.first, align: it.align.get(), zone }
            }
            2 => {
                let Ok((it, _)) = AddPointer::ref_from_prefix(&raw.body) else { return unknown };
                Self::AddPointer { dest: raw.first, src: it.src, offset: it.offset.get(), size: it.size }
            }
            3 => {
                let Ok((it, _)) = AddChecksum::ref_from_prefix(&raw.body) else { return unknown };
                Self::AddChecksum {
                    file: raw.first,
                    offset: it.offset.get(),
                    start: it.start.get(),
                    len: it.len.get(),
                }
            }
            4 => {
                let Ok((it, _)) = WritePointer::ref_from_prefix(&raw.body) else { return unknown };
                Self::WritePointer {
                    dest: raw.first,
                    src: it.src,
                    dest_offset: it.dest_offset.get(),
                    src_offset: it.src_offset.get(),
                    size: it.size,
                }
            }
            _ => return unknown,
        })
    }
}
