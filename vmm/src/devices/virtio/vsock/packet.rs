//! Packets as they stand in virtqueues (section 5.10.6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The host's context identifier.
pub const HOST_CID: u64 = 2;
/// The one type of socket there is: a stream.
pub const STREAM: u16 = 1;

/// `VIRTIO_VSOCK_OP_*`: what a packet is for.
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Grants it.
    pub const RESPONSE: u16 = 2;
    /// Refuses or ends it.
    pub const RST: u16 = 3;
    /// The sender will receive or send no more.
    pub const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub const RW: u16 = 5;
    /// Says how much room there is.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks how much room there is.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flag of [`op::SHUTDOWN`]: the sender of the packet receives no more.
pub const SHUT_RECEIVE: u32 = 1;
/// Flag of [`op::SHUTDOWN`]: the sender of the packet sends no more.
pub const SHUT_SEND: u32 = 2;
/// Both.
pub const SHUT_BOTH: u32 = SHUT_RECEIVE | SHUT_SEND;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, the one event: all connections are gone.
pub const EVENT_TRANSPORT_RESET: u32 = 0;

/// `struct virtio_vsock_hdr`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Context of the sender.
    pub src_cid: U64,
    /// Context of the receiver.
    pub dst_cid: U64,
    /// Port of the sender.
    pub src_port: U32,
    /// Port of the receiver.
    pub dst_port: U32,
    /// Bytes of data behind the header.
    pub len: U32,
    /// `type`: [`STREAM`].
    pub kind: U16,
    /// What it is for: see [`op`].
    pub op: U16,
    /// Of [`op::SHUTDOWN`].
    pub flags: U32,
    /// Bytes that the sender holds at most of what it receives.
    pub buf_alloc: U32,
    /// Bytes that have left that room so far, modulo 2^32.
    pub fwd_cnt: U32,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = size_of::<Self>();
}

const _: () = assert!(Header::LEN == 44);
