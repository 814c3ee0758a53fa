//! The configuration space of a block device (5.2.4).

use zerocopy::{Immutable, IntoBytes, little_endian as le};

use super::request::MAX_ZERO_SECTORS;
use crate::disk::{Geometry, SECTOR};

/// Feature bits of a block device (5.2.3).
pub mod feature {
    pub const SEG_MAX: u32 = 2;
    pub const RO: u32 = 5;
    pub const BLK_SIZE: u32 = 6;
    pub const FLUSH: u32 = 9;
    pub const TOPOLOGY: u32 = 10;
    pub const MQ: u32 = 12;
    pub const DISCARD: u32 = 13;
    pub const WRITE_ZEROES: u32 = 14;
}

/// `struct virtio_blk_config`, up to what the features that are offered need.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    capacity: le::U64,
    size_max: le::U32,
    seg_max: le::U32,
    cylinders: le::U16,
    heads: u8,
    sectors: u8,
    blk_size: le::U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: le::U16,
    opt_io_size: le::U32,
    writeback: u8,
    unused0: u8,
    num_queues: le::U16,
    max_discard_sectors: le::U32,
    max_discard_seg: le::U32,
    discard_sector_alignment: le::U32,
    max_write_zeroes_sectors: le::U32,
    max_write_zeroes_seg: le::U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

const _: () = assert!(size_of::<Config>() == 60);

impl Config {
    /// Of a disk of this geometry. `seg_max` is the most buffers of data in one request.
    pub fn new(geometry: &Geometry, seg_max: u16, queues: u16) -> Self {
        let Geometry { size, logical_block, physical_block, readonly: _ } = *geometry;
        Self {
            capacity: (size / SECTOR).into(),
            seg_max: u32::from(seg_max).into(),
            blk_size: logical_block.into(),
            physical_block_exp: (physical_block / logical_block).checked_ilog2().unwrap_or(0) as u8,
            num_queues: queues.into(),
            max_discard_sectors: MAX_ZERO_SECTORS.into(),
            max_discard_seg: 1.into(),
            discard_sector_alignment: (physical_block / SECTOR as u32).into(),
            max_write_zeroes_sectors: MAX_ZERO_SECTORS.into(),
            max_write_zeroes_seg: 1.into(),
            write_zeroes_may_unmap: 1,
            ..Self::default()
        }
    }
}
