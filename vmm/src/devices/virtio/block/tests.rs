//! The device under a driver that keeps to the rules, and under one that does not.

mod dirty;
mod model;

use proptest::prelude::*;

use super::request::kind;
use super::*;
use crate::devices::virtio::testing::{FakeDriver, Nothing, Target};
use crate::disk::SECTOR;
use crate::disk::testing::FakeDisk;

const LEN: usize = 64 * SECTOR as usize;

fn options() -> Options {
    Options { queues: 1, id: *b"serial-number-of-20b", writeback: true, sync: true, limiter: None }
}

fn contents() -> Vec<u8> {
    (0..LEN).map(|at| (at / SECTOR as usize) as u8).collect()
}

fn disk() -> FakeDisk {
    FakeDisk::new(contents(), false).unwrap()
}

fn driver(disk: &FakeDisk) -> FakeDriver {
    FakeDriver::new(Box::new(Block::new(Box::new(disk.clone()), options())))
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [sector.to_le_bytes().as_slice(), &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Sends a request with data to write and room for data to read: the status, and what was read.
fn ask(driver: &mut FakeDriver, header: &[u8], out: &[&[u8]], room: &[usize]) -> (u8, Vec<u8>) {
    let readable: Vec<&[u8]> = std::iter::once(header).chain(out.iter().copied()).collect();
    let writable: Vec<usize> = room.iter().copied().chain([1]).collect();
    let mut data = driver.request(0, &readable, &writable).data;
    let status = data.pop().unwrap();
    (status, data)
}

#[test]
fn reads_writes_and_the_rest() {
    let disk = disk();
    let mut driver = driver(&disk);
    let (status, data) = ask(&mut driver, &header(kind::IN, 3), &[], &[512, 100, 412]);
    assert_eq!((status, data), (0, [[3; 512], [4; 512]].concat()));
    let (status, _) = ask(&mut driver, &header(kind::OUT, 62), &[&[9; 1000], &[8; 24]], &[]);
    assert_eq!(status, 0);
    assert_eq!(disk.state().bytes[62 * 512..], [[9; 1000].as_slice(), &[8; 24]].concat());
    assert_eq!(disk.state().durable, contents(), "there is a cache");
    assert_eq!(ask(&mut driver, &header(kind::FLUSH, 0), &[], &[]).0, 0);
    let bytes = disk.state().bytes.clone();
    assert_eq!(disk.state().durable, bytes);
    assert_eq!(ask(&mut driver, &header(kind::GET_ID, 0), &[], &[20]), (0, b"serial-number-of-20b".to_vec()));
    assert_eq!(ask(&mut driver, &header(kind::WRITE_ZEROES, 0), &[&range(60, 4, 1)], &[]).0, 0);
    assert_eq!(ask(&mut driver, &header(kind::DISCARD, 0), &[&range(58, 2, 0)], &[]).0, 0);
    assert_eq!(disk.state().bytes[58 * 512..], [0; 6 * 512]);
    assert_eq!(ask(&mut driver, &header(99, 0), &[], &[]).0, 2);
    assert!(!driver.needs_reset());
}

#[test]
fn any_layout_of_buffers_will_do() {
    let disk = disk();
    let mut driver = driver(&disk);
    let header = header(kind::OUT, 1);
    let data = [7; 512];
    let whole = [header.as_slice(), &data].concat();
    for cut in [1, 15, 17, 300] {
        disk.state().bytes[512..1024].fill(0);
        let used = driver.request(0, &[&whole[..cut], &whole[cut..]], &[1]);
        assert_eq!((used.written, used.data), (1, vec![0]), "{cut}");
        assert_eq!(disk.state().bytes[512..1024], data);
    }
    let used = driver.request(0, &[&self::header(kind::IN, 1)], &[513]);
    assert_eq!((used.written, used.data), (513, [&data[..], &[0]].concat()));
}

#[test]
fn what_lies_outside_fails_and_leaves_the_device_alive() {
    let disk = disk();
    let mut driver = driver(&disk);
    for (header, out, room) in [
        (header(kind::IN, 63), vec![], 1024),
        (header(kind::IN, 64), vec![], 512),
        (header(kind::IN, u64::MAX), vec![], 512),
        (header(kind::IN, u64::MAX / 512), vec![], 512),
        (header(kind::IN, 0), vec![], 100),
        (header(kind::OUT, 64), vec![0; 512], 0),
        (header(kind::DISCARD, 0), range(0, 65, 0), 0),
        (header(kind::DISCARD, 0), range(u64::MAX, u32::MAX, 0), 0),
        (header(kind::DISCARD, 0), vec![0; 15], 0),
        (header(kind::DISCARD, 0), vec![0; 32], 0),
        (header(kind::WRITE_ZEROES, 0), vec![], 0),
    ] {
        let (status, _) = ask(&mut driver, &header, &[&out], &[room]);
        assert_eq!(status, 1, "{header:?} {out:?}");
    }
    assert_eq!(ask(&mut driver, &header(kind::DISCARD, 0), &[&range(0, 1, 1)], &[]).0, 2);
    assert_eq!(ask(&mut driver, &header(kind::WRITE_ZEROES, 0), &[&range(0, 1, 2)], &[]).0, 2);
    assert_eq!(disk.state().bytes, contents());
    assert_eq!(ask(&mut driver, &header(kind::IN, 0), &[], &[512]).0, 0);
}

#[test]
fn a_request_without_header_or_status_breaks_the_rules() {
    for (readable, writable) in [(vec![0; 15], vec![1]), (vec![0; 16], vec![])] {
        let mut driver = driver(&disk());
        driver.offer(0, &[&readable], &writable);
        driver.kick(0);
        assert!(driver.needs_reset());
        driver.initialise(u64::MAX);
        assert_eq!(ask(&mut driver, &header(kind::IN, 0), &[], &[512]).0, 0);
    }
}

#[test]
fn a_disk_that_fails_is_an_error_in_the_guest() {
    for background in [false, true] {
        let disk = disk();
        disk.state().background = background;
        let mut driver = driver(&disk);
        for fails in [true, false, true, false] {
            disk.state().fails = fails;
            for (kind, out, room) in
                [(kind::IN, vec![], 512), (kind::OUT, vec![5; 512], 0), (kind::FLUSH, vec![], 0)]
            {
                driver.offer(0, &[&header(kind, 0), &out], &[room, 1]);
                driver.kick(0);
                while disk.complete() {}
                driver.run();
                let data = driver.take(0).expect("an answer").data;
                assert_eq!(data.last(), Some(&u8::from(fails)), "{kind}");
            }
        }
        assert!(!driver.needs_reset());
    }
}

#[test]
fn what_can_be_told_of_a_disk_is() {
    let features = |readonly, writeback| {
        let disk = FakeDisk::new(contents(), readonly).unwrap();
        Block::new(Box::new(disk), Options { writeback, queues: 4, ..options() }).features()
    };
    let bits = |bits: &[u32]| bits.iter().fold(0, |all, bit| all | 1 << bit);
    assert_eq!(features(true, false), bits(&[2, 5, 6, 10, 12]));
    assert_eq!(features(false, true), bits(&[2, 6, 9, 10, 12, 13, 14]));
    let driver = driver(&disk());
    assert_eq!(driver.config(0, 8), 64_u64.to_le_bytes(), "capacity");
    assert_eq!(driver.config(12, 4), 510_u32.to_le_bytes(), "seg_max");
    assert_eq!(driver.config(20, 5), [0, 2, 0, 0, 3], "blk_size, physical_block_exp");
    assert_eq!(driver.config(36, 12), [[0, 0, 8, 0], [1, 0, 0, 0], [8, 0, 0, 0]].concat(), "discard");
    assert_eq!(driver.config(58, 4), [0; 4], "beyond the end");
    let mut readonly =
        FakeDriver::new(Box::new(Block::new(Box::new(FakeDisk::new(contents(), true).unwrap()), options())));
    for (kind, out) in
        [(kind::OUT, vec![0; 512]), (kind::DISCARD, range(0, 1, 0)), (kind::WRITE_ZEROES, range(0, 1, 0))]
    {
        assert_eq!(ask(&mut readonly, &header(kind, 0), &[&out], &[]).0, 1);
    }
}

#[test]
fn without_a_cache_each_write_is_durable() {
    for (writeback, sync, accepts_flush, durable) in [
        (true, true, true, false),
        (true, true, false, true),
        (false, true, true, true),
        (false, false, true, false),
    ] {
        let disk = disk();
        let device = Block::new(Box::new(disk.clone()), Options { writeback, sync, ..options() });
        let features = if accepts_flush { u64::MAX } else { !(1 << feature::FLUSH) };
        let mut driver = FakeDriver::with_features(Box::new(device), features);
        assert_eq!(ask(&mut driver, &header(kind::OUT, 0), &[&[5; 512]], &[]).0, 0);
        assert_eq!(disk.state().durable[..512] == [5; 512], durable, "{writeback} {sync} {accepts_flush}");
        assert_eq!(ask(&mut driver, &header(kind::WRITE_ZEROES, 0), &[&range(1, 1, 1)], &[]).0, 0);
        let zeroed = disk.state().durable[512..1024] == [0; 512];
        assert_eq!(zeroed, durable, "zeroes, {writeback} {sync} {accepts_flush}");
    }
}

#[test]
fn what_goes_on_in_the_background_is_drained_before_a_snapshot() {
    let disk = disk();
    disk.state().background = true;
    let mut driver = driver(&disk);
    let heads: Vec<u16> =
        (0..20).map(|sector| driver.offer(0, &[&header(kind::IN, sector)], &[512, 1])).collect();
    driver.kick(0);
    assert_eq!(driver.take(0), None, "all of them wait");
    let mut driver = driver.restored(Box::new(Block::new(Box::new(disk.clone()), options())));
    let mut seen = Vec::new();
    while let Some(used) = driver.take(0) {
        let sector = heads.iter().position(|&head| head == used.head).unwrap();
        assert_eq!(used.data, [[sector as u8; 512].as_slice(), &[0]].concat());
        seen.push(used.head);
    }
    seen.sort_unstable();
    assert_eq!(seen, heads);
}

#[test]
fn more_requests_than_fit_wait_their_turn() {
    let disk = disk();
    disk.state().background = true;
    let mut driver = driver(&disk);
    for _ in 0..400 {
        driver.offer_indirect(0, &[&header(kind::IN, 0)], &[512, 1]);
    }
    driver.kick(0);
    let mut done = 0;
    for _ in 0..1000 {
        if !disk.complete() {
            break;
        }
        driver.run();
        done += std::iter::from_fn(|| driver.take(0)).count();
    }
    assert_eq!(done, 400);
}

#[test]
fn a_reset_ends_what_is_in_flight() {
    let disk = disk();
    disk.state().background = true;
    let mut driver = driver(&disk);
    driver.offer(0, &[&header(kind::IN, 1)], &[512, 1]);
    driver.kick(0);
    driver.initialise(u64::MAX);
    assert!(!disk.complete(), "nothing is left of it");
    disk.state().background = false;
    assert_eq!(ask(&mut driver, &header(kind::IN, 2), &[], &[512]).1, [2; 512]);
}

#[test]
fn rates_are_kept_and_saved() {
    let limit = crate::config::RateLimit { bandwidth: None, ops: Some("2/100ms".parse().unwrap()) };
    let limited = |disk: &FakeDisk| {
        let limiter = RateLimiter::new(&limit).unwrap();
        Box::new(Block::new(Box::new(disk.clone()), Options { limiter, ..options() }))
    };
    let disk = disk();
    let mut driver = FakeDriver::new(limited(&disk));
    for _ in 0..5 {
        driver.offer(0, &[&header(kind::IN, 0)], &[512, 1]);
    }
    driver.kick(0);
    assert_eq!(std::iter::from_fn(|| driver.take(0)).count(), 2);
    let mut driver = driver.restored(limited(&disk));
    let mut rest = 0;
    for _ in 0..100 {
        driver.wait();
        rest += std::iter::from_fn(|| driver.take(0)).count();
        if rest == 3 {
            return;
        }
    }
    panic!("{rest} of 3 requests came through");
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u8),
    Zero(u64, u32),
    Flush,
    Background(bool),
    Complete,
    PowerCut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0_u64..70, 0_u64..20);
    let step = prop_oneof![
        place().prop_map(|(at, len)| Step::Read(at, len)),
        (place(), any::<u8>()).prop_map(|((at, len), fill)| Step::Write(at, len, fill)),
        place().prop_map(|(at, len)| Step::Zero(at, len as u32)),
        Just(Step::Flush),
        any::<bool>().prop_map(Step::Background),
        Just(Step::Complete),
        Just(Step::PowerCut),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a driver does, the device works for the next one; at once, in the background, and when the disk fails.
    #[test]
    fn a_hostile_driver(
        kind in 0..3_u8,
        background: bool,
        fails: bool,
        scripts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
    ) {
        let disk = disk();
        let mut target = Target::new(Box::new(Block::new(Box::new(disk.clone()), options())), kind);
        for script in scripts {
            let set = |background, fails| {
                let mut state = disk.state();
                (state.background, state.fails) = (background, fails);
            };
            set(background, fails);
            let driver = target.attack(&script, &mut Nothing);
            set(false, false);
            let (status, data) = ask(driver, &header(kind::IN, 63), &[], &[512]);
            prop_assert_eq!((status, data.len()), (0, 512));
        }
    }

    /// The device is an array with a cache in front: what was flushed survives.
    #[test]
    fn an_array_with_a_cache(steps in steps()) {
        let disk = disk();
        let mut driver = driver(&disk);
        let (mut now, mut safe) = (contents(), contents());
        for step in steps {
            let place = |at: u64, len: u64| (at + len <= 64).then(|| (at * 512) as usize..((at + len) * 512) as usize);
            let (head, out, room) = match step {
                Step::Read(at, len) => (header(kind::IN, at), vec![], (len * 512) as usize),
                Step::Write(at, len, fill) => (header(kind::OUT, at), vec![fill; (len * 512) as usize], 0),
                Step::Zero(at, len) => (header(kind::WRITE_ZEROES, 0), range(at, len, 1), 0),
                Step::Flush => (header(kind::FLUSH, 0), vec![], 0),
                Step::Background(on) => {
                    disk.state().background = on;
                    continue;
                }
                Step::Complete => {
                    prop_assert!(!disk.complete());
                    continue;
                }
                Step::PowerCut => {
                    let mut state = disk.state();
                    prop_assert!(state.durable == safe);
                    state.bytes.clone_from(&safe);
                    now.clone_from(&safe);
                    continue;
                }
            };
            driver.offer(0, &[&head, &out], &[room, 1]);
            driver.kick(0);
            while disk.complete() {}
            driver.run();
            let mut data = driver.take(0).expect("an answer").data;
            let status = data.pop();
            let fine = match step {
                Step::Read(at, len) => place(at, len).map(|range| {
                    prop_assert!(data == now[range]);
                    Ok(())
                }),
                Step::Write(at, len, fill) => place(at, len).map(|range| { now[range].fill(fill); Ok(()) }),
                Step::Zero(at, len) => place(at, len.into()).map(|range| { now[range].fill(0); Ok(()) }),
                _ => {
                    safe.clone_from(&now);
                    Some(Ok(()))
                }
            };
            prop_assert_eq!(status, Some(u8::from(fine.is_none())), "{:?}", step);
            fine.unwrap_or(Ok(()))?;
            prop_assert!(disk.state().bytes == now);
        }
    }
}
