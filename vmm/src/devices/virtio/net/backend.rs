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

/// The host's side of a network card. Descriptors are watched edge-triggered: after an event, one goes on until
/// `Outcome::Wait`.
pub trait Backend: Send {
    /// Offloads that it can do, as feature bits of the device.
    fn features(&self) -> u64;

    /// Pairs of queues that it can serve.
    fn pairs(&self) -> u16;

    /// The driver takes these of the features, and uses the first `pairs` pairs of queues.
    fn configure(&mut self, features: u64, pairs: u16) -> io::Result<()>;

    /// What is watched for a pair of queues, while somebody is there.
    fn descriptor(&self, pair: u16) -> Option<RawFd>;

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

/// A cable whose ends are plugged into each other, with every offload: what is sent comes back. For tests.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug)]
pub struct Loopback {
    frames: [std::collections::VecDeque<Vec<u8>>; 2],
    events: [vmm_sys_util::eventfd::EventFd; 2],
}

#[cfg(any(test, feature = "testing"))]
impl Loopback {
    /// Frames that wait at most; more are lost.
    const MOST: usize = 64;

    /// With two pairs of queues.
    pub fn new() -> io::Result<Self> {
        let event = || vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self { frames: Default::default(), events: [event()?, event()?] })
    }
}

#[cfg(any(test, feature = "testing"))]
impl Backend for Loopback {
    fn features(&self) -> u64 {
        super::tap::ALL_FEATURES
    }

    fn pairs(&self) -> u16 {
        2
    }

    fn configure(&mut self, _features: u64, _pairs: u16) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self, pair: u16) -> Option<RawFd> {
        self.events.get(usize::from(pair)).map(std::os::fd::AsRawFd::as_raw_fd)
    }

    fn send(&mut self, pair: u16, packet: &[Slice<'_>]) -> Outcome<()> {
        let len = crate::devices::virtio::queue::total(packet).min(LONGEST as u64) as usize;
        let mut frame = vec![0; len];
        crate::devices::virtio::scatter::copy_out(packet, 0, &mut frame);
        let frames = &mut self.frames[usize::from(pair)];
        if frames.len() < Self::MOST {
            frames.push_back(frame);
            // Fails only when the counter is full, which takes 2^64 frames.
            let _ = self.events[usize::from(pair)].write(1);
        }
        Outcome::Done(())
    }

    fn receive(&mut self, pair: u16, buffers: &[Slice<'_>], spill: &mut [u8]) -> Outcome<usize> {
        let Some(frame) = self.frames[usize::from(pair)].pop_front() else { return Outcome::Wait };
        let direct = crate::devices::virtio::scatter::copy_in(buffers, 0, &frame);
        let rest = frame.len() - direct;
        spill[..rest].copy_from_slice(&frame[direct..]);
        Outcome::Done(frame.len())
    }

    fn hang_up(&mut self) {}

    fn reconnect(&mut self) -> bool {
        true
    }
}
