//! Disk images: what a block device reads and writes. Raw files and block devices, qcow2, overlays.

mod error;
mod fixed;
mod lengths;
mod lock;
mod open;
mod qcow2;
mod raw;
mod segments;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod uring;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::memory::{Map, Slice};

pub use error::Error;
pub use open::{Chain, Image, Opened, identity, open};
pub use raw::Raw;

/// Bytes of a sector, the unit in which virtio-block counts (Virtio 1.2, 5.2.6).
pub const SECTOR: u64 = 512;

/// What a disk looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes, a multiple of `logical_block`.
    pub size: u64,
    /// Bytes that can be read or written at least: a power of two, 512 or more.
    pub logical_block: u32,
    /// Bytes that are written at once without reading first: a power of two, `logical_block` or more.
    pub physical_block: u32,
    /// Whether nothing may be written.
    pub readonly: bool,
}

/// One piece of work. Offsets and lengths are in bytes, multiples of [`SECTOR`], and lie inside of the disk.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Fill guest memory from the disk.
    Read {
        /// Where on the disk it begins.
        offset: u64,
        /// Where it goes, in this order.
        to: &'a [Slice<'a>],
    },
    /// Write guest memory to the disk.
    Write {
        /// Where on the disk it begins.
        offset: u64,
        /// Where it comes from, in this order.
        from: &'a [Slice<'a>],
        /// Whether it has to survive a power cut when it is done (`RWF_DSYNC`).
        durable: bool,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Where it begins.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Whether its space may be given back.
        unmap: bool,
        /// Whether it has to survive a power cut when it is done.
        durable: bool,
    },
    /// The range's contents are not needed any more.
    Discard {
        /// Where it begins.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Make all that was done before survive a power cut.
    Flush,
}

/// A disk image. An operation is done at once, or goes on in the background under the caller's number for it.
pub trait Backend: Send {
    /// What the disk looks like.
    fn geometry(&self) -> Geometry;

    /// The memory that operations will be on, and which may help to prepare them; they may be on other memory as well.
    fn prepare(&mut self, _memory: &Arc<Map>) {}

    /// Begins an operation, and brings it to its end where that can be had at once. `None`: it goes on, and
    /// [`Backend::completed`] will name `id`. The memory that it uses must stay until then.
    fn start(&mut self, id: u16, operation: &Operation<'_>) -> Option<io::Result<()>>;

    /// Hands what was started to the system; called after a batch of [`Backend::start`].
    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// An operation that went on in the background and has ended.
    fn completed(&mut self) -> Option<(u16, io::Result<()>)> {
        None
    }

    /// Waits until something is there for [`Backend::completed`].
    fn wait(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Becomes readable when something is there for [`Backend::completed`].
    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
