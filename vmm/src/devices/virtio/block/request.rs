//! Requests of a block device (5.2.6): from a chain of buffers to an operation on the disk.

use std::mem::offset_of;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, little_endian as le};

use super::super::chain::{Buffers, total};
use super::super::{Chain, Error};
use crate::disk::{Geometry, Operation, SECTOR};
use crate::memory::{Slice, field, subslice};

/// Bytes of the string that `VIRTIO_BLK_T_GET_ID` asks for.
pub const ID_LEN: usize = 20;
/// The most sectors that one request may discard or zero, so that no request keeps others waiting for long.
pub const MAX_ZERO_SECTORS: u32 = 1 << 19;

/// The driver may discard with this flag of a request to write zeroes.
const WRITE_ZEROES_UNMAP: u32 = 1;

/// The first bytes of each request.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// What is to be done.
    pub kind: le::U32,
    reserved: le::U32,
    /// Where, for reads and writes.
    pub sector: le::U64,
}

const _: () = assert!(size_of::<Header>() == 16);

/// What a request to discard or to write zeroes is about.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    sector: le::U64,
    num_sectors: le::U32,
    flags: le::U32,
}

const _: () = assert!(size_of::<Range>() == 16);

/// `virtio_blk_req.type`.
pub mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// How a request ended: `virtio_blk_req.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// `VIRTIO_BLK_S_OK`
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`
    IoErr = 1,
    /// `VIRTIO_BLK_S_UNSUPP`
    Unsupp = 2,
}

/// A request, taken apart.
#[derive(Debug)]
pub struct Request<'c, 'm> {
    header: (u32, u64),
    /// What the driver sends, after the header.
    out: &'c [Slice<'m>],
    /// Bytes of that.
    sent: u64,
    /// Where data for the driver goes.
    data: &'c [Slice<'m>],
    /// Bytes of that.
    room: u64,
    /// The byte that the status goes to.
    status: Slice<'m>,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Work<'a> {
    /// This is to be done.
    Disk(Operation<'a>),
    /// The disk's identifier is to be written.
    Identify(&'a [Slice<'a>]),
    /// Nothing is done.
    Refuse(Status),
}

impl<'c, 'm> Request<'c, 'm> {
    /// Takes a chain apart, the only one in its lists. However its bytes are spread over buffers (2.7.4), the first sixteen
    /// that the driver sends are the header, and the last that it is sent is the status.
    pub fn parse(chain: &'c mut Chain<'m>) -> Result<Self, Error> {
        let Chain { readable: out, writable: data, len, .. } = chain;
        let (header, first_out) = match alone(out) {
            Some(header) => (header, 1),
            None => spread(out)?,
        };
        let status = take_last(data)?;
        let out = &out[first_out..];
        // One of the two lists has nothing or little in it: that is summed, and the other has the rest.
        let both = u64::from(*len) - (size_of::<Header>() + size_of::<Status>()) as u64;
        let room = if out.len() < data.len() { both - total(out) } else { total(data) };
        Ok(Self { header, out, sent: both - room, data, room, status })
    }

    /// What is to be done on a disk of this geometry.
    pub fn work(&self, geometry: &Geometry, durable: bool) -> Work<'_> {
        let (kind, sector) = self.header;
        let (out, data) = (self.out, self.data);
        let refuse = Work::Refuse(Status::IoErr);
        match kind {
            kind::IN => match place(geometry, sector, self.room) {
                Some(offset) => Work::Disk(Operation::Read { offset, to: data }),
                None => refuse,
            },
            kind::OUT if geometry.readonly => refuse,
            kind::OUT => match place(geometry, sector, self.sent) {
                Some(offset) => Work::Disk(Operation::Write { offset, from: out, durable }),
                None => refuse,
            },
            kind::FLUSH => Work::Disk(Operation::Flush),
            kind::GET_ID => Work::Identify(data),
            kind::DISCARD | kind::WRITE_ZEROES if geometry.readonly => refuse,
            kind::DISCARD | kind::WRITE_ZEROES => range(geometry, out, kind, durable),
            _ => Work::Refuse(Status::Unsupp),
        }
    }

    /// Bytes of data in both directions.
    pub fn data_len(&self) -> u64 {
        self.sent + self.room
    }

    /// Bytes that the driver is sent when all goes well, the status among them.
    pub fn written(&self) -> u32 {
        u32::try_from(self.room).map_or(u32::MAX, |len| len.saturating_add(1))
    }

    /// The byte that the status goes to.
    pub fn status(&self) -> Slice<'m> {
        self.status
    }

    /// Tells the driver how it ended.
    pub fn answer(&self, status: Status) {
        self.status.copy_from(&[status as u8]);
    }
}

/// Kind and sector of a header that has a buffer of its own, as nearly all have.
#[inline(always)]
fn alone(buffers: &[Slice<'_>]) -> Option<(u32, u64)> {
    let buffer = buffers.first().filter(|buffer| buffer.len() == size_of::<Header>())?;
    let kind = field(buffer, offset_of!(Header, kind))?.load();
    let sector = field(buffer, offset_of!(Header, sector))?.load();
    Some((u32::from_le(kind), u64::from_le(sector)))
}

/// As [`alone`], of any other, which is taken out of the buffers: from which one on there is something left.
#[cold]
fn spread(buffers: &mut [Slice<'_>]) -> Result<((u32, u64), usize), Error> {
    let mut header = Header::new_zeroed();
    let (mut rest, mut first) = (header.as_mut_bytes(), 0);
    while !rest.is_empty() {
        let Some(buffer) = buffers.get_mut(first) else {
            return Err(Error::Request("a block request is shorter than its header"));
        };
        let take = buffer.copy_to(&mut *rest);
        rest = &mut rest[take..];
        if take == buffer.len() {
            first += 1;
        } else {
            *buffer = buffer.offset(take).map_err(|_| Error::Request("a buffer ends before its end"))?;
        }
    }
    Ok(((header.kind.get(), header.sector.get()), first))
}

/// Takes the last byte out of buffers.
fn take_last<'m>(buffers: &mut Buffers<'m>) -> Result<Slice<'m>, Error> {
    loop {
        let Some(last) = buffers.pop() else {
            return Err(Error::Request("a block request has no room for its status"));
        };
        let Some(len) = last.len().checked_sub(1) else { continue };
        if len == 0 {
            return Ok(last);
        }
        let part = |from, len| subslice(&last, from, len);
        let (Some(rest), Some(byte)) = (part(0, len), part(len, 1)) else { continue };
        buffers.push(rest);
        return Ok(byte);
    }
}

/// The offset in bytes of `len` bytes at `sector`, if they are whole blocks of the disk.
fn place(geometry: &Geometry, sector: u64, len: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR)?;
    let end = offset.checked_add(len)?;
    let whole = (offset | len).is_multiple_of(geometry.logical_block.into());
    (whole && end <= geometry.size).then_some(offset)
}

fn range<'a>(geometry: &Geometry, out: &[Slice<'_>], kind: u32, durable: bool) -> Work<'a> {
    let mut bytes = [0; size_of::<Range>()];
    let mut filled = 0;
    for buffer in out {
        // One range is what the device offers to take.
        if buffer.len() > bytes.len() - filled {
            return Work::Refuse(Status::IoErr);
        }
        buffer.copy_to(&mut bytes[filled..]);
        filled += buffer.len();
    }
    let Ok(range) = Range::read_from_bytes(&bytes[..filled]) else { return Work::Refuse(Status::IoErr) };
    let (sectors, flags) = (range.num_sectors.get(), range.flags.get());
    let known = if kind == kind::WRITE_ZEROES { WRITE_ZEROES_UNMAP } else { 0 };
    if flags & !known != 0 {
        return Work::Refuse(Status::Unsupp);
    }
    let len = u64::from(sectors) * SECTOR;
    match place(geometry, range.sector.get(), len) {
        Some(_) if sectors > MAX_ZERO_SECTORS => Work::Refuse(Status::IoErr),
        Some(offset) if kind == kind::DISCARD => Work::Disk(Operation::Discard { offset, len }),
        Some(offset) => Work::Disk(Operation::WriteZeroes { offset, len, unmap: flags != 0, durable }),
        None => Work::Refuse(Status::IoErr),
    }
}
