//! What is known of one stream.

use std::num::Wrapping;

use super::muxer::BUF_ALLOC;
use super::packet::{Header, SHUT_RECEIVE, SHUT_SEND, op};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest has asked, the host has not answered yet.
    Asked,
    /// The host asks, the guest has not answered yet.
    Requested,
    /// Both have agreed.
    Open,
}

/// Packets that are to be sent, one bit each; the first to be sent is the lowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due(u8);

impl Due {
    pub(super) const REQUEST: Self = Self(1);
    pub(super) const RESPONSE: Self = Self(2);
    pub(super) const CREDIT_UPDATE: Self = Self(4);
    pub(super) const CREDIT_REQUEST: Self = Self(8);
    pub(super) const SHUTDOWN: Self = Self(16);

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(super) fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    pub(super) fn take_first(&mut self) -> Option<Self> {
        let first = Self(self.0 & self.0.wrapping_neg());
        self.remove(first);
        (!first.is_empty()).then_some(first)
    }

    /// The packet's `op`.
    pub(super) fn op(self) -> u16 {
        match self {
            Self::REQUEST => op::REQUEST,
            Self::RESPONSE => op::RESPONSE,
            Self::CREDIT_UPDATE => op::CREDIT_UPDATE,
            Self::CREDIT_REQUEST => op::CREDIT_REQUEST,
            _ => op::SHUTDOWN,
        }
    }
}

/// One stream. Counts of bytes are modulo 2^32, as in packets.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) phase: Phase,
    /// What the guest has said that it does no more, and what it was told.
    pub(super) guest_shut: u32,
    pub(super) host_shut: u32,
    /// To the guest: what was sent, and of that what has left its room; the size of its room.
    pub(super) sent: Wrapping<u32>,
    guest_forwarded: Wrapping<u32>,
    guest_alloc: u32,
    /// The guest was asked for room, and has made none since.
    pub(super) asked: bool,
    /// From the guest: what came, what of that has left our room, and what of that the guest knows.
    pub(super) received: Wrapping<u32>,
    pub(super) forwarded: Wrapping<u32>,
    told: Wrapping<u32>,
    pub(super) due: Due,
    /// It waits for its turn to send what is due.
    pub(super) queued: bool,
}

impl Stream {
    pub(super) fn new(phase: Phase, header: &Header) -> Self {
        let mut stream = Self {
            phase,
            guest_shut: 0,
            host_shut: 0,
            sent: Wrapping(0),
            guest_forwarded: Wrapping(0),
            guest_alloc: 0,
            asked: false,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            due: Due::default(),
            queued: false,
        };
        stream.hear(header);
        stream
    }

    /// Each packet of the guest says what room there is. A guest that has answered that there is none yet is not asked
    /// again before that has changed: its reader may be idle for long, and answers would go round and round.
    pub(super) fn hear(&mut self, header: &Header) {
        let room = (header.buf_alloc.get(), Wrapping(header.fwd_cnt.get()));
        self.asked &= room == (self.guest_alloc, self.guest_forwarded);
        (self.guest_alloc, self.guest_forwarded) = room;
    }

    /// Each packet to the guest says what room there is.
    pub(super) fn tell(&mut self) {
        self.told = self.forwarded;
        self.due.remove(Due::CREDIT_UPDATE);
    }

    pub(super) fn may_send(&self) -> bool {
        self.phase == Phase::Open && self.guest_shut & SHUT_RECEIVE == 0 && self.host_shut & SHUT_SEND == 0
    }

    pub(super) fn credit(&self) -> u32 {
        let under_way = self.sent - self.guest_forwarded;
        if self.may_send() { self.guest_alloc.saturating_sub(under_way.0) } else { 0 }
    }

    pub(super) fn host_receives(&self) -> bool {
        self.host_shut & SHUT_RECEIVE == 0
    }

    /// Whether the guest keeps to what it has said and was told when it sends so much.
    pub(super) fn may_receive(&self, len: u32) -> bool {
        let held = (self.received - self.forwarded).0;
        self.guest_shut & SHUT_SEND == 0 && len <= BUF_ALLOC.saturating_sub(held)
    }

    /// Half of the room is free again, and the guest does not know.
    pub(super) fn owes_credit(&self) -> bool {
        (self.forwarded - self.told).0 >= BUF_ALLOC / 2
    }
}
