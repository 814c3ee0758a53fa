//! Rules that both sides have to keep.

use super::*;
use crate::devices::virtio::vsock::packet::{SHUT_RECEIVE, SHUT_SEND};
use proptest::prelude::*;

const CID: u64 = 3;
const KEY: Key = Key { host: 80, guest: 1000 };

fn packet(op: u16, key: Key) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID.into(),
        src_port: key.guest.into(),
        dst_port: key.host.into(),
        kind: STREAM.into(),
        op: op.into(),
        buf_alloc: 1000.into(),
        ..Header::default()
    }
}

fn ops(muxer: &mut Muxer) -> Vec<u16> {
    std::iter::from_fn(|| muxer.next()).map(|header| header.op.get()).collect()
}

/// A muxer with one stream, which the guest has opened.
fn open() -> Muxer {
    let mut muxer = Muxer::new(CID);
    assert_eq!(muxer.receive(&packet(op::REQUEST, KEY)), Effect::Connect(KEY));
    muxer.accept(KEY);
    assert_eq!(ops(&mut muxer), [op::RESPONSE]);
    muxer
}

#[test]
fn what_breaks_the_rules_is_reset() {
    let data = Header { len: (BUF_ALLOC + 1).into(), ..packet(op::RW, KEY) };
    for bad in [data, packet(op::REQUEST, KEY), packet(op::RESPONSE, KEY), packet(99, KEY)] {
        let mut muxer = open();
        assert_eq!(muxer.receive(&bad), Effect::Closed(KEY), "{bad:?}");
        assert_eq!(ops(&mut muxer), [op::RST]);
        assert_eq!(muxer.receive(&packet(op::RW, KEY)), Effect::None, "unknown by now");
        assert_eq!(ops(&mut muxer), [op::RST]);
        assert_eq!(muxer.receive(&packet(op::RST, KEY)), Effect::None);
        assert_eq!(ops(&mut muxer), [0; 0], "no reset for a reset");
    }
}

#[test]
fn other_types_and_contexts() {
    let mut muxer = open();
    assert_eq!(muxer.receive(&Header { kind: 2.into(), ..packet(op::REQUEST, KEY) }), Effect::Closed(KEY));
    let reset = muxer.next().unwrap();
    assert_eq!((reset.op.get(), reset.kind.get()), (op::RST, 2));
    for foreign in [
        Header { src_cid: 4.into(), ..packet(op::REQUEST, KEY) },
        Header { dst_cid: 1.into(), ..packet(op::REQUEST, KEY) },
    ] {
        assert_eq!(muxer.receive(&foreign), Effect::None);
        assert_eq!(ops(&mut muxer), [0; 0]);
    }
}

#[test]
fn the_end_waits_for_what_is_under_way() {
    let mut muxer = open();
    let data = Header { len: 10.into(), ..packet(op::RW, KEY) };
    assert_eq!(muxer.receive(&data), Effect::Data(KEY));
    let end = Header { flags: SHUT_BOTH.into(), ..packet(op::SHUTDOWN, KEY) };
    assert_eq!(muxer.receive(&end), Effect::Shutdown(KEY, SHUT_BOTH));
    assert_eq!(muxer.forwarded(KEY, 9), Effect::None);
    assert_eq!(muxer.forwarded(KEY, 1), Effect::Closed(KEY));
    assert_eq!(ops(&mut muxer), [op::RST]);
}

#[test]
fn each_half_ends_by_itself() {
    let mut muxer = open();
    muxer.shut(KEY, SHUT_SEND);
    muxer.shut(KEY, SHUT_SEND);
    let told = muxer.next().unwrap();
    assert_eq!((told.op.get(), told.flags.get(), muxer.has_next()), (op::SHUTDOWN, SHUT_SEND, false));
    assert_eq!(muxer.credit(KEY), 0);
    let data = Header { len: 10.into(), ..packet(op::RW, KEY) };
    assert_eq!(muxer.receive(&data), Effect::Data(KEY), "the other half");
    muxer.shut(KEY, SHUT_RECEIVE);
    assert_eq!(muxer.next().unwrap().flags.get(), SHUT_BOTH);
    assert_eq!(muxer.receive(&data), Effect::None, "was on its way");
    let end = Header { flags: SHUT_SEND.into(), ..packet(op::SHUTDOWN, KEY) };
    assert_eq!(muxer.receive(&end), Effect::Shutdown(KEY, SHUT_SEND));
    assert_eq!(muxer.receive(&data), Effect::Closed(KEY), "it said that it would not");
}

#[test]
fn credit_is_asked_for_once() {
    let mut muxer = open();
    assert_eq!(muxer.credit(KEY), 1000);
    assert_eq!(muxer.send(KEY, 1000).len.get(), 1000);
    assert_eq!((muxer.credit(KEY), muxer.credit(KEY)), (0, 0));
    assert_eq!(ops(&mut muxer), [op::CREDIT_REQUEST]);
    assert_eq!(muxer.credit(KEY), 0);
    assert_eq!(ops(&mut muxer), [0; 0]);
    muxer.receive(&packet(op::CREDIT_UPDATE, KEY));
    assert_eq!((muxer.credit(KEY), ops(&mut muxer)), (0, Vec::new()), "it has answered that there is none");
    muxer.receive(&Header { fwd_cnt: 400.into(), ..packet(op::CREDIT_UPDATE, KEY) });
    assert_eq!(muxer.credit(KEY), 400);
    muxer.receive(&packet(op::CREDIT_REQUEST, KEY));
    assert_eq!(ops(&mut muxer), [op::CREDIT_UPDATE]);
}

#[test]
fn what_the_host_opens() {
    let mut muxer = Muxer::new(CID);
    let key = muxer.open(7).unwrap();
    assert_eq!(muxer.receive(&packet(op::RESPONSE, key)), Effect::Closed(key), "it was not asked yet");
    let (key, given_up) = (muxer.open(7).unwrap(), muxer.open(7).unwrap());
    muxer.abort(given_up);
    muxer.next();
    assert_eq!(ops(&mut muxer), [op::REQUEST], "of the one that is wanted still");
    assert_eq!(muxer.receive(&packet(op::RESPONSE, key)), Effect::Connected(key));
    assert!(muxer.is_open(key));
}

#[test]
fn there_is_room_for_so_many() {
    let mut muxer = Muxer::new(CID);
    for _ in 0..MAX_STREAMS {
        muxer.open(7).unwrap();
    }
    assert_eq!(muxer.open(7), None);
    assert_eq!(muxer.receive(&packet(op::REQUEST, KEY)), Effect::None);
    assert_eq!(muxer.next().unwrap().op.get(), op::RST);
    muxer.clear();
    assert_eq!(ops(&mut muxer), [0; 0]);
    muxer.open(7).unwrap();
}

proptest! {
    /// Whatever a guest sends and the host does: counts stay within bounds, no credit is exceeded, and nothing is
    /// due for a stream that is not there.
    #[test]
    fn stays_within_bounds(steps in prop::collection::vec((0u8..12, 0u32..4, 0u32..3, any::<u32>()), 1..400)) {
        let mut muxer = Muxer::new(CID);
        for (what, host, guest, number) in steps {
            let key = Key { host: if host == 3 { LOCAL_PORTS.start } else { host }, guest };
            let len = number % (BUF_ALLOC + 9);
            match what {
                0..=7 => {
                    let header = Header {
                        len: len.into(),
                        flags: number.into(),
                        buf_alloc: (number >> 9).into(),
                        fwd_cnt: (number >> 20).into(),
                        ..packet(what.into(), key)
                    };
                    match muxer.receive(&header) {
                        Effect::Connect(key) if number & 1 == 0 => muxer.accept(key),
                        Effect::Connect(key) => muxer.abort(key),
                        Effect::Data(key) => {
                            let stream = &muxer.streams[&key];
                            prop_assert!((stream.received - stream.forwarded).0 <= BUF_ALLOC);
                            muxer.forwarded(key, len / 2);
                        }
                        Effect::Closed(key) => prop_assert!(!muxer.streams.contains_key(&key)),
                        _ => {}
                    }
                }
                8 => {
                    let credit = muxer.credit(key);
                    prop_assert!(muxer.is_open(key) || credit == 0);
                    muxer.send(key, credit.min(number));
                }
                9 => muxer.shut(key, number & SHUT_BOTH),
                10 => drop(muxer.open(guest)),
                _ => drop(muxer.next()),
            }
            prop_assert!(muxer.streams.len() <= MAX_STREAMS && muxer.resets.len() <= MAX_RESETS);
            prop_assert_eq!(muxer.due.len(), muxer.streams.values().filter(|stream| stream.queued).count());
        }
        for key in muxer.streams.keys().copied().collect::<Vec<_>>() {
            muxer.receive(&packet(op::RST, key));
        }
        muxer.resets.clear();
        prop_assert!(!muxer.has_next());
    }
}
