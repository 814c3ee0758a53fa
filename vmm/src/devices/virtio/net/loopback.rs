//! A cable whose ends are plugged into each other: what is sent comes back. For tests.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::backend::{Backend, LONGEST, Outcome};
use crate::devices::virtio::chain::total;
use crate::devices::virtio::scatter::{copy_in, copy_out};
use crate::memory::Slice;

/// Pairs of queues.
const PAIRS: usize = 2;
/// Frames that wait at most; more are lost.
const MOST: usize = 64;

/// What is on the way.
#[derive(Debug, Default)]
pub struct Cable {
    /// Frames with their headers, for each pair of queues.
    pub frames: [VecDeque<Vec<u8>>; PAIRS],
    /// Whether the cable is out.
    pub out: bool,
    /// Whether it takes no more for now.
    pub full: bool,
    /// The features and the pairs of queues that it was last told of.
    pub configured: (u64, u16),
}

/// A cable with every offload and two pairs of queues. Clones share it.
#[derive(Clone, Debug)]
pub struct Loopback {
    cable: Arc<Mutex<Cable>>,
    /// Only their numbers matter: nothing is ever written to them.
    descriptors: Arc<[EventFd; PAIRS]>,
}

impl Loopback {
    /// With nothing on the way.
    pub fn new() -> io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self { cable: Arc::default(), descriptors: Arc::new([event()?, event()?]) })
    }

    /// What is on the way.
    pub fn cable(&self) -> MutexGuard<'_, Cable> {
        self.cable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Loopback {
    fn features(&self) -> u64 {
        super::tap::ALL_FEATURES
    }

    fn pairs(&self) -> u16 {
        PAIRS as u16
    }

    fn configure(&mut self, features: u64, pairs: u16) -> io::Result<()> {
        self.cable().configured = (features, pairs);
        Ok(())
    }

    fn descriptor(&self, pair: u16) -> Option<RawFd> {
        self.descriptors.get(usize::from(pair)).map(AsRawFd::as_raw_fd)
    }

    fn send(&mut self, pair: u16, packet: &[Slice<'_>]) -> Outcome<()> {
        let mut cable = self.cable();
        if cable.out {
            return Outcome::Gone;
        }
        if cable.full {
            return Outcome::Wait;
        }
        let mut frame = vec![0; total(packet).min(LONGEST as u64) as usize];
        copy_out(packet, 0, &mut frame);
        let frames = &mut cable.frames[usize::from(pair)];
        if frames.len() < MOST {
            frames.push_back(frame);
        }
        Outcome::Done(())
    }

    fn receive(&mut self, pair: u16, buffers: &[Slice<'_>], spill: &mut [u8]) -> Outcome<usize> {
        let mut cable = self.cable();
        if cable.out {
            return Outcome::Gone;
        }
        let Some(frame) = cable.frames[usize::from(pair)].pop_front() else { return Outcome::Wait };
        let direct = copy_in(buffers, 0, &frame);
        let rest = frame.len() - direct;
        spill[..rest].copy_from_slice(&frame[direct..]);
        Outcome::Done(frame.len())
    }

    fn hang_up(&mut self) {}

    fn reconnect(&mut self) -> bool {
        !self.cable().out
    }
}
