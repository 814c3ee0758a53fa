//! A backend of which nothing stays in the device, like a tap.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use super::*;
use crate::devices::virtio::scatter::{readv, writev};
use crate::memory::Slice;

/// Every frame is what one call sends or receives, with its header. Once the other end is gone it stays so, and the
/// descriptor says that for ever, as a tap's does.
struct Direct(OwnedFd);

impl Backend for Direct {
    fn features(&self) -> u64 {
        0
    }

    fn pairs(&self) -> u16 {
        1
    }

    fn configure(&mut self, _features: u64, _pairs: u16) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self, _pair: u16) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn send(&mut self, _pair: u16, packet: &[Slice<'_>]) -> Outcome<()> {
        writev(&self.0, packet).unwrap();
        Outcome::Done(())
    }

    fn receive(&mut self, _pair: u16, buffers: &[Slice<'_>], spill: &mut [u8]) -> Outcome<usize> {
        readv(&self.0, buffers, spill).map_or(Outcome::Wait, Outcome::Done)
    }

    fn hang_up(&mut self) {}

    fn reconnect(&mut self) -> bool {
        false
    }
}

#[test]
fn frames_wait_where_they_are_for_room() {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut driver = FakeDriver::new(Box::new(Net::new(Box::new(Direct(near.into())), options()).unwrap()));
    let frame = |n: u8| [[0; HEADER].as_slice(), &[n; 60]].concat();
    let mut next = 0;
    for round in 0..3 {
        // Those that come when the guest has sent something are all there, though the first is likely the answer.
        if round > 0 {
            send(&mut driver, b"question");
            assert_eq!(far.recv(&mut [0; 100]).unwrap(), HEADER + 8);
        }
        for n in next..next + 5 {
            far.send(&frame(n)).unwrap();
        }
        driver.run();
        assert!(!driver.is_busy(), "{round}: it waits for buffers");
        for n in next..next + 5 {
            assert_eq!(merged(&mut driver), None);
            driver.offer(RECEIVE, &[], &[100]);
            driver.kick(RECEIVE);
            assert_eq!(merged(&mut driver).unwrap(), [n; 60]);
        }
        for _ in 0..5 {
            driver.offer(RECEIVE, &[], &[100]);
        }
        driver.kick(RECEIVE);
        for n in next + 5..next + 10 {
            far.send(&frame(n)).unwrap();
        }
        driver.run();
        for n in next + 5..next + 10 {
            assert_eq!(merged(&mut driver).unwrap(), [n; 60], "{round}");
        }
        next += 10;
    }
    driver.offer(RECEIVE, &[], &[100]);
    driver.kick(RECEIVE);
    driver.offer(RECEIVE, &[], &[HEADER - 1]);
    for n in 0..3 {
        far.send(&frame(n)).unwrap();
    }
    driver.run();
    assert!(driver.needs_reset());
    assert!(!driver.is_busy(), "a broken driver gets no frames");
}

#[test]
fn a_link_that_is_down_is_not_watched_after_a_reset() {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut driver = FakeDriver::new(Box::new(Net::new(Box::new(Direct(near.into())), options()).unwrap()));
    drop(far);
    driver.run();
    assert!(!driver.is_busy(), "it is known to be down");
    driver.initialise(u64::MAX);
    assert!((0..5).all(|_| !driver.is_busy()));
}
