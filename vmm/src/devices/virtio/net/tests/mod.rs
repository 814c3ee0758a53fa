//! The device against a program at the other end of a socket, and against a tap where there may be one.

mod direct;
mod model;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use proptest::prelude::*;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4};

use super::backend::LONGEST;
use super::*;
use crate::config::{RateLimit, TokenBucket};
use crate::devices::virtio::testing::{FakeDriver, Used};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const CONTROL: u16 = 2;

fn options() -> NetOptions {
    NetOptions { mac: MAC, ..NetOptions::default() }
}

fn card(stream: Stream, options: NetOptions) -> FakeDriver {
    FakeDriver::new(Box::new(Net::new(Box::new(stream), options).unwrap()))
}

/// A card, and the program at its other end.
fn pair(options: NetOptions) -> (FakeDriver, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    (card(Stream::adopt(near.into()).unwrap(), options), far)
}

fn framed(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32).to_be_bytes(), data].concat()
}

/// The frame that the program gets next.
fn heard(far: &mut UnixStream) -> Option<Vec<u8>> {
    let mut len = [0; 4];
    match far.read_exact(&mut len) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
        other => other.unwrap(),
    }
    let mut data = vec![0; u32::from_be_bytes(len) as usize];
    far.read_exact(&mut data).unwrap();
    Some(data)
}

fn send(driver: &mut FakeDriver, data: &[u8]) {
    let used = driver.request(TRANSMIT, &[&[0; HEADER], data], &[]);
    assert_eq!(used.written, 0);
}

/// A frame from the buffers that the device has filled, and how many it took.
fn merge(driver: &mut FakeDriver) -> Option<(Vec<u8>, u16)> {
    let first = driver.take(RECEIVE)?;
    let buffers = u16::from_le_bytes([first.data[10], first.data[11]]);
    let filled = |used: &Used| used.data[..used.written as usize].to_vec();
    let mut frame = filled(&first)[HEADER..].to_vec();
    for _ in 1..buffers {
        frame.extend(filled(&driver.take(RECEIVE).expect("as many buffers as the header says")));
    }
    Some((frame, buffers))
}

fn merged(driver: &mut FakeDriver) -> Option<Vec<u8>> {
    merge(driver).map(|(frame, _)| frame)
}

#[test]
fn frames_go_both_ways() {
    let (mut driver, mut far) = pair(options());
    assert_eq!(driver.config(0, 10), [MAC.as_slice(), &[1, 0, 1, 0]].concat());
    send(&mut driver, b"out");
    assert_eq!(heard(&mut far).unwrap(), b"out");
    driver.offer(RECEIVE, &[], &[1526]);
    far.write_all(&framed(b"in")).unwrap();
    driver.run();
    assert_eq!(merged(&mut driver).unwrap(), b"in");
    assert!(driver.interrupts(RECEIVE) > 0);
}

#[test]
fn large_frames_take_several_buffers() {
    let (mut driver, mut far) = pair(options());
    let frame: Vec<u8> = (0..9000).map(|i| (i % 253) as u8).collect();
    for round in 0..3 {
        far.write_all(&framed(&frame)).unwrap();
        driver.run();
        assert!(merged(&mut driver).is_none(), "it waits for buffers");
        for _ in 0..4 {
            driver.offer(RECEIVE, &[], &[1000, 1000]);
        }
        driver.kick(RECEIVE);
        assert!(merged(&mut driver).is_none(), "and for enough of them");
        driver.offer(RECEIVE, &[], &[5000]);
        driver.kick(RECEIVE);
        assert!(merged(&mut driver).unwrap() == frame, "{round}");
    }
}

#[test]
fn what_one_frame_leaves_is_for_the_next() {
    let (mut driver, mut far) = pair(options());
    let large: Vec<u8> = (0..9000).map(|i| (i % 251) as u8).collect();
    let frames = [large.as_slice(), b"small", large.as_slice(), b"smaller"];
    for round in 0..3 {
        // One of them has no room at all.
        for len in [1500; 9].into_iter().chain([0]).chain([1500; 8]) {
            driver.offer(RECEIVE, &[], &[len]);
        }
        far.write_all(&frames.map(framed).concat()).unwrap();
        driver.run();
        let taken = [(7, 0), (1, 1), (8, 2), (1, 3)];
        for (buffers, frame) in taken {
            assert!(merge(&mut driver) == Some((frames[frame].to_vec(), buffers)), "{round} {frame}");
        }
        assert_eq!(merge(&mut driver), None);
        far.write_all(&framed(b"last")).unwrap();
        driver.run();
        assert_eq!(merge(&mut driver), Some((b"last".to_vec(), 1)), "one is left");
    }
}

#[test]
fn without_merged_buffers_a_frame_has_one() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let net = Net::new(Box::new(Stream::adopt(near.into()).unwrap()), options()).unwrap();
    let mut driver = FakeDriver::with_features(Box::new(net), 1 << 32);
    for len in [100, 100] {
        driver.offer(RECEIVE, &[], &[len]);
    }
    far.write_all(&[framed(&[1; 200]), framed(&[2; 50])].concat()).unwrap();
    driver.run();
    let used = driver.take(RECEIVE).unwrap();
    assert_eq!((used.written as usize, used.data[HEADER]), (HEADER + 50, 2), "the first does not fit");
    assert_eq!(used.data[10..12], [1, 0]);
}

#[test]
fn a_slow_program_holds_the_driver_back() {
    let (mut driver, mut far) = pair(options());
    let frame = [7; 60_000];
    let (mut offered, mut taken, mut heard_of) = (0, 0, 0);
    while taken == offered {
        driver.offer(TRANSMIT, &[&[0; HEADER], &frame], &[]);
        driver.kick(TRANSMIT);
        offered += 1;
        taken += usize::from(driver.take(TRANSMIT).is_some());
        assert!(offered < 100);
    }
    far.set_nonblocking(false).unwrap();
    while heard_of < offered {
        assert_eq!(heard(&mut far).unwrap(), frame);
        heard_of += 1;
        driver.run();
    }
    assert!(driver.take(TRANSMIT).is_some());
}

#[test]
fn what_is_left_of_a_frame_goes_when_there_is_room() {
    let frame = [7; 60_000];
    let offer = |driver: &mut FakeDriver| {
        driver.offer(TRANSMIT, &[&[0; HEADER], &frame], &[]);
        driver.kick(TRANSMIT);
        driver.take(TRANSMIT).is_some()
    };
    // As many as are taken before one has to wait, the last of them in part.
    let (mut driver, _far) = pair(options());
    let taken = (0..100).take_while(|_| offer(&mut driver)).count();
    let (mut driver, mut far) = pair(options());
    assert!((0..taken).all(|_| offer(&mut driver)));
    let (mut bytes, mut chunk) = (Vec::<u8>::new(), vec![0; 1 << 20]);
    let sent = framed(&frame).repeat(taken);
    for _ in 0..1000 {
        match far.read(&mut chunk) {
            Ok(len) => bytes.extend(&chunk[..len]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        driver.run();
    }
    assert!(bytes == sent, "{} of {} bytes", bytes.len(), sent.len());
}

#[test]
fn the_link_follows_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    let listener = UnixListener::bind(&path).unwrap();
    let mut driver = card(Stream::connect(&path).unwrap(), options());
    let status = |driver: &FakeDriver| driver.config(6, 2)[0];
    let (far, _) = listener.accept().unwrap();
    drop((far, listener));
    driver.run();
    assert_eq!((status(&driver), driver.config_interrupts()), (0, 1), "down");
    send(&mut driver, b"lost");
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    while status(&driver) == 0 {
        driver.wait();
    }
    assert_eq!(driver.config_interrupts(), 2, "up");
    let (mut far, _) = listener.accept().unwrap();
    send(&mut driver, b"found");
    assert_eq!(heard(&mut far).unwrap(), b"found");
    driver.offer(RECEIVE, &[], &[1526]);
    far.write_all(&framed(b"too")).unwrap();
    driver.run();
    assert_eq!(merged(&mut driver).unwrap(), b"too");
}

#[test]
fn limits_hold_frames_back() {
    let rate = |size| {
        let bucket = TokenBucket { size, refill_time: 20, one_time_burst: 0 };
        RateLimiter::new(&RateLimit { bandwidth: None, ops: Some(bucket) }).unwrap()
    };
    let (mut driver, mut far) = pair(NetOptions { receive: rate(1), transmit: rate(1), ..options() });
    for _ in 0..3 {
        driver.offer(TRANSMIT, &[&[0; HEADER + 5]], &[]);
        driver.offer(RECEIVE, &[], &[100]);
        far.write_all(&framed(b"frame")).unwrap();
    }
    driver.kick(TRANSMIT);
    let mut out = std::iter::from_fn(|| heard(&mut far)).count();
    let mut back = std::iter::from_fn(|| merged(&mut driver)).count();
    assert!(out < 3 && back < 3, "{out} and {back}");
    while out < 3 || back < 3 {
        driver.wait();
        out += std::iter::from_fn(|| heard(&mut far)).count();
        back += std::iter::from_fn(|| merged(&mut driver)).count();
    }
}

#[test]
fn commands() {
    let (mut driver, _far) = pair(options());
    let mut command = |bytes: &[u8]| driver.request(CONTROL, &[bytes], &[1]).data[0];
    assert_eq!(command(&[1, 1, 2, 0, 0, 0, 0, 9]), 0, "hardware address");
    for refused in [[1, 1, 2].as_slice(), &[4, 0, 2, 0], &[4, 0, 0, 0], &[0, 0, 1], &[9, 9], &[1], &[]] {
        assert_eq!(command(refused), 1, "{refused:?}");
    }
    assert_eq!(command(&[4, 0, 1, 0]), 0, "one pair of queues");
    assert_eq!(driver.config(0, 6), [2, 0, 0, 0, 0, 9]);
    let (_near, far) = UnixStream::pair().unwrap();
    let fresh = Net::new(Box::new(Stream::adopt(far.into()).unwrap()), options()).unwrap();
    let driver = driver.restored(Box::new(fresh));
    assert_eq!(driver.config(0, 6), [2, 0, 0, 0, 0, 9], "saved");
}

#[test]
fn the_backend_is_told_again_what_was_chosen_by_command() {
    let plugged = || {
        let cable = Loopback::new().unwrap();
        let net = Net::new(Box::new(cable.clone()), options()).unwrap();
        (Box::new(net), cable)
    };
    let (net, cable) = plugged();
    let mut driver = FakeDriver::new(net);
    assert_ne!(cable.cable().configured.0 & 1 << VIRTIO_NET_F_GUEST_TSO4, 0, "all that the driver takes");
    let chosen = 1_u8 << VIRTIO_NET_F_GUEST_CSUM;
    let mut command = |bytes: &[u8]| driver.request(4, &[bytes], &[1]).data[0];
    assert_eq!(command(&[4, 0, 2, 0]), 0, "two pairs of queues");
    assert_eq!(command(&[5, 0, chosen, 0, 0, 0, 0, 0, 0, 0]), 0, "checksums only");
    assert_eq!(cable.cable().configured, (chosen.into(), 2));
    let (fresh, cable) = plugged();
    let _driver = driver.restored(fresh);
    assert_eq!(cable.cable().configured, (chosen.into(), 2), "restored");
}

#[test]
fn a_broken_driver_is_told() {
    let short: [(u16, &[u8], &[usize]); 3] =
        [(TRANSMIT, &[0; HEADER - 1], &[]), (RECEIVE, &[], &[HEADER - 1]), (CONTROL, &[4, 0, 1, 0], &[])];
    for (queue, readable, writable) in short {
        let (mut driver, mut far) = pair(options());
        far.write_all(&framed(b"frame")).unwrap();
        driver.offer(queue, &[readable], writable);
        driver.kick(queue);
        assert!(driver.needs_reset(), "{queue}");
    }
}

/// Whether this process may make taps.
fn may_make_taps() -> bool {
    Tap::open("jiffytest", 1).is_ok()
}

#[test]
fn a_tap() {
    if !may_make_taps() {
        eprintln!("not run: this user may make no taps");
        return;
    }
    let tap = Tap::open("jiffytest0", 2).unwrap();
    tap.set_mtu(1400).unwrap();
    assert!(Tap::open("jiffytest0", 1).unwrap_err().to_string().contains("another number of queues"));
    let net = Net::new(Box::new(tap), NetOptions { mtu: Some(1400), ..options() }).unwrap();
    let mut driver = FakeDriver::new(Box::new(net));
    assert_eq!(driver.config(8, 4), [2, 0, 0x78, 5], "pairs of queues, MTU");
    // The host's IPv6 says hello to an interface that comes up; whatever it says has to be a frame.
    for _ in 0..8 {
        driver.offer(RECEIVE, &[], &[2048]);
    }
    driver.kick(RECEIVE);
    let frame = [[0xff; 6].as_slice(), &MAC, &[8, 6], &[0; 50]].concat();
    send(&mut driver, &frame);
    let mut command = |bytes: &[u8]| driver.request(4, &[bytes], &[1]).data[0];
    assert_eq!(command(&[4, 0, 2, 0]), 0);
    assert_eq!(command(&[4, 0, 1, 0]), 0);
    assert_eq!(command(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0, "checksums only");
    assert_eq!(command(&[5, 0, 0, 0, 0, 0, 0, 1, 0, 0]), 1, "not offered");
    let counted = std::fs::read_to_string("/sys/class/net/jiffytest0/statistics/rx_packets");
    if let Ok(counted) = counted {
        assert_ne!(counted.trim(), "0");
    }
}

#[test]
fn what_is_no_tap() {
    let file = tempfile::tempfile().unwrap();
    assert_eq!(Tap::adopt(vec![file.into()]).unwrap_err().to_string(), "is no descriptor of a tap");
    assert!(Tap::open("much-too-long-for-it", 1).is_err());
    let file = tempfile::tempfile().unwrap();
    assert_eq!(Stream::adopt(file.into()).unwrap_err().to_string(), "is no connected socket");
    assert_eq!(Stream::connect("/nowhere/p".as_ref()).unwrap_err().kind(), ErrorKind::NotFound);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever sizes frames and buffers have, frames arrive whole and in their order.
    #[test]
    fn frames_stay_whole(
        frames in prop::collection::vec(prop_oneof![14usize..1600, 14usize..LONGEST - HEADER], 1..12),
        buffers in prop::collection::vec(prop::collection::vec(12usize..5000, 1..4), 8..40),
        pieces in prop::collection::vec(1usize..70_000, 1..40),
    ) {
        let (mut driver, mut far) = pair(options());
        let frames: Vec<Vec<u8>> =
            frames.iter().zip(0..).map(|(&len, n)| (0..len).map(|i| (i / 7 + n) as u8).collect()).collect();
        let stream: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
        let (mut at, mut seen) = (0, Vec::new());
        let (mut pieces, mut sizes) = (pieces.iter().cycle(), buffers.iter().cycle());
        let mut offered = 0;
        while seen.len() < frames.len() {
            let end = stream.len().min(at + pieces.next().unwrap());
            at += far.write(&stream[at..end]).unwrap_or(0);
            while offered < 60 {
                driver.offer_indirect(RECEIVE, &[], sizes.next().unwrap());
                offered += 1;
            }
            driver.kick(RECEIVE);
            while let Some((frame, buffers)) = merge(&mut driver) {
                seen.push(frame);
                offered -= buffers;
            }
        }
        prop_assert!(seen == frames);
    }
}

#[test]
fn an_address_that_was_set_is_shown_before_the_command_is_done() {
    let (mut driver, _far) = pair(options());
    let new = [2, 9, 9, 9, 9, 9];
    let used = driver.request(CONTROL, &[&[1, 1], &new], &[1]);
    assert_eq!(used.data, [0]);
    assert_eq!(driver.config(0, 6), new, "afterwards");
    assert_eq!(driver.config_at_interrupt(6), new, "before the command was given back");
}
