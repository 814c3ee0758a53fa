//! What is behind a network card on the host's side.

use std::io;
use std::os::fd::RawFd;

use crate::memory::Slice;

/// Bytes of `struct virtio_net_hdr_v1` (section 5.1.6), which is in front of each frame.
pub const HEADER: usize = 12;
/// The longest that a frame can be with its header: 64 KiB of IP, and Ethernet's own with a tag.
pub const LONGEST: usize = HEADER + 65_535 + 18;

/// What came of an attempt to send or receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It is done.
    Done(T),
    /// It has to wait for the descriptor's next event.
    Wait,
    /// Nobody is there any more.
    Gone,
}

/// The host's side of a network card. Unless it [is direct](Backend::is_direct), descriptors are watched edge-triggered:
/// after an event, one goes on until `Outcome::Wait`.
pub trait Backend: Send {
    /// Offloads that it can do, as feature bits of the device.
    fn features(&self) -> u64;

    /// Pairs of queues that it can serve.
    fn pairs(&self) -> u16;

    /// The driver takes these of the features, and uses the first `pairs` pairs of queues.
    fn configure(&mut self, features: u64, pairs: u16) -> io::Result<()>;

    /// What is watched for a pair of queues, while somebody is there.
    fn descriptor(&self, pair: u16) -> Option<RawFd>;

    /// Whether nothing of a frame stays here: sending never waits, and as long as there is a frame to receive, the
    /// descriptor is readable.
    fn is_direct(&self) -> bool {
        false
    }

    /// Goes on with what of a frame that was sent has stayed here.
    fn flush(&mut self) -> Outcome<()> {
        Outcome::Done(())
    }

    /// Sends a frame, with its header in front.
    fn send(&mut self, pair: u16, packet: &[Slice<'_>]) -> Outcome<()>;

    /// Receives a frame with its header in front, at most `LONGEST` bytes, into `buffers` and what they have no
    /// room for into `spill`: how many bytes it has.
    fn receive(&mut self, pair: u16, buffers: &[Slice<'_>], spill: &mut [u8]) -> Outcome<usize>;

    /// Lets go of an end at which nobody is; the descriptors are not watched any more.
    fn hang_up(&mut self);

    /// Tries whether somebody is there again. The descriptors may be others afterwards.
    fn reconnect(&mut self) -> bool;
}
