//! The device on every kind of image against an array: requests of all types, several at a time, on several queues, in
//! buffers of any shape. What was flushed is in the files, whatever becomes of the process.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::sample::Index;
use rustix::fs::{Advice, fadvise, fdatasync};

use super::*;
use crate::config::{DiskConfig, FileRef, IoEngine, Overlay};
use crate::disk::{self, Chain};

const SECTORS: u64 = 512;
const QUEUES: u16 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    Sync,
    Ring,
    Direct,
    Qcow2,
    OverlayTmp,
    /// A qcow2 file on a qcow2 file on a raw one.
    OverlayFile,
}

const IMAGES: [Image; 6] =
    [Image::Sync, Image::Ring, Image::Direct, Image::Qcow2, Image::OverlayTmp, Image::OverlayFile];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read,
    Write(u8),
    Zero(bool),
    Discard,
    Flush,
    Identify,
    Unknown,
}

/// One request, and how its bytes lie in buffers.
#[derive(Clone, Debug)]
struct Ask {
    what: What,
    at: u64,
    len: u64,
    cuts: (Vec<Index>, Vec<Index>),
    indirect: bool,
    queue: u16,
}

#[derive(Clone, Debug)]
enum Step {
    /// Requests that go on beside each other, but for those that others would get into the way of.
    Batch(Vec<Ask>),
    /// The driver starts anew.
    Reset,
    /// The VM ends, and another one has the image.
    Restart,
    /// The host's page cache has so many sectors of the raw image, and forgets all behind them.
    Forget(u64),
}

fn ask_of_any_kind() -> impl Strategy<Value = Ask> {
    let what = prop_oneof![
        4 => Just(What::Read),
        6 => any::<u8>().prop_map(What::Write),
        2 => any::<bool>().prop_map(What::Zero),
        1 => Just(What::Discard),
        2 => Just(What::Flush),
        1 => Just(What::Identify),
        1 => Just(What::Unknown),
    ];
    let cuts = || prop::collection::vec(any::<Index>(), 0..4);
    // Some of them lie outside.
    let place = (0..SECTORS + 8, 1_u64..=48);
    (what, place, (cuts(), cuts()), any::<bool>(), 0..QUEUES)
        .prop_map(|(what, (at, len), cuts, indirect, queue)| Ask { what, at, len, cuts, indirect, queue })
}

fn run_of_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => prop::collection::vec(ask_of_any_kind(), 1..8).prop_map(Step::Batch),
        1 => Just(Step::Reset),
        1 => Just(Step::Restart),
        2 => (1..SECTORS).prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 1..12)
}

impl Ask {
    /// The bytes that it is about, in whole blocks of the disk.
    fn bytes(&self, unit: u64) -> Range<usize> {
        let (at, len) = match self.what {
            What::Flush | What::Identify | What::Unknown => (0, 0),
            _ => (self.at / unit * unit, self.len.next_multiple_of(unit)),
        };
        (at * SECTOR) as usize..((at + len) * SECTOR) as usize
    }

    fn writes(&self) -> bool {
        matches!(self.what, What::Write(_) | What::Zero(_) | What::Discard)
    }

    fn is_in_the_way_of(&self, other: &Self, unit: u64) -> bool {
        let (own, others) = (self.bytes(unit), other.bytes(unit));
        (self.writes() || other.writes()) && own.start < others.end && others.start < own.end
    }

    /// What a write writes: no two sectors of a disk look alike.
    fn data(&self, unit: u64) -> Vec<u8> {
        let What::Write(seed) = self.what else { return Vec::new() };
        let range = self.bytes(unit);
        range.map(|at| (at / 512) as u8 ^ (at / 7) as u8 ^ seed).collect()
    }

    fn readable(&self, unit: u64) -> Vec<u8> {
        let Range { start, end } = self.bytes(unit);
        let (sector, sectors) = (start as u64 / SECTOR, ((end - start) as u64 / SECTOR) as u32);
        let of_range = |kind, flags| [header(kind, 0), range(sector, sectors, flags)].concat();
        match self.what {
            What::Read => header(kind::IN, sector),
            What::Write(_) => [header(kind::OUT, sector), self.data(unit)].concat(),
            What::Zero(unmap) => of_range(kind::WRITE_ZEROES, unmap.into()),
            What::Discard => of_range(kind::DISCARD, 0),
            What::Flush => header(kind::FLUSH, 0),
            What::Identify => header(kind::GET_ID, 0),
            What::Unknown => header(77, sector),
        }
    }

    /// Room for the answer, without the status.
    fn room(&self, unit: u64) -> usize {
        match self.what {
            What::Read => self.bytes(unit).len(),
            What::Identify => ID_LEN,
            _ => 0,
        }
    }
}

/// `len` bytes in pieces.
fn pieces(len: usize, cuts: &[Index]) -> Vec<usize> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(len)).chain([len]).collect();
    ends.sort_unstable();
    let mut start = 0;
    let lens = ends.into_iter().map(|end| end - std::mem::replace(&mut start, end));
    lens.filter(|&len| len > 0).collect()
}

struct Bench {
    place: tempfile::TempDir,
    image: Image,
    readonly: bool,
    /// Whether the driver is told of a cache.
    writeback: bool,
    driver: FakeDriver,
    unit: u64,
}

impl Bench {
    fn new(image: Image, readonly: bool, writeback: bool) -> (Self, Vec<u8>) {
        let place = tempfile::tempdir().unwrap();
        let start: Vec<u8> = (0..(SECTORS * SECTOR) as usize).map(|at| (at / 512) as u8 | 1).collect();
        let raw = place.path().join("raw");
        fs::write(&raw, &start).unwrap();
        make_overlay(&raw, &place.path().join("middle.qcow2"));
        let (driver, unit) = start_device(place.path(), image, readonly, writeback);
        (Self { place, image, readonly, writeback, driver, unit }, start)
    }

    fn restart(&mut self) {
        // The image is locked for as long as there is a device.
        self.driver = FakeDriver::uninitialised(Box::new(crate::devices::virtio::Entropy));
        (self.driver, self.unit) = start_device(self.place.path(), self.image, self.readonly, self.writeback);
    }

    /// Hands all of them over at once, and waits for all answers.
    fn run(&mut self, asks: &[Ask]) -> Vec<(u32, u8, Vec<u8>)> {
        let mut heads = Vec::new();
        for ask in asks {
            let (bytes, room) = (ask.readable(self.unit), ask.room(self.unit) + 1);
            let mut rest = bytes.as_slice();
            let parts: Vec<&[u8]> = pieces(bytes.len(), &ask.cuts.0)
                .into_iter()
                .map(|len| rest.split_off(..len).expect("no more than there is"))
                .collect();
            let room = pieces(room, &ask.cuts.1);
            heads.push(match ask.indirect {
                true => self.driver.offer_indirect(ask.queue, &parts, &room),
                false => self.driver.offer(ask.queue, &parts, &room),
            });
        }
        (0..QUEUES).for_each(|queue| self.driver.core.ring(queue));
        self.driver.run();
        let mut answers = vec![None; asks.len()];
        for _ in 0..60 {
            for queue in 0..QUEUES {
                while let Some(mut used) = self.driver.take(queue) {
                    let of = |(ask, head): (&Ask, &u16)| ask.queue == queue && *head == used.head;
                    let which = asks.iter().zip(&heads).position(of).expect("one that was asked");
                    let status = used.data.pop().unwrap();
                    assert!(answers[which].replace((used.written, status, used.data)).is_none());
                }
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
            assert!(!self.driver.needs_reset());
            self.driver.wait();
        }
        answers.into_iter().map(|answer| answer.expect("an answer")).collect()
    }

    fn forget(&self, sectors: u64) {
        let file = fs::File::open(self.place.path().join("raw")).unwrap();
        // What has to be written first stays.
        fdatasync(&file).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        fadvise(&file, 0, None, Advice::Random).unwrap();
        file.read_exact_at(&mut vec![0; (sectors * SECTOR) as usize], 0).unwrap();
    }

    fn whole(&mut self) -> Vec<u8> {
        read_all(&mut self.driver)
    }

    /// What a new process would find: a copy of the file that is written, taken while the device is still there.
    fn found_after_a_crash(&self) -> Option<Vec<u8>> {
        let (name, copy) = match self.image {
            Image::Sync | Image::Ring | Image::Direct => ("raw", "copy"),
            Image::Qcow2 => ("middle.qcow2", "copy.qcow2"),
            Image::OverlayFile => ("top.qcow2", "copy.qcow2"),
            Image::OverlayTmp => return None,
        };
        let copy = self.place.path().join(copy);
        fs::copy(self.place.path().join(name), &copy).unwrap();
        let disk = disk::open(&DiskConfig { readonly: true, ..spec(&copy) }, &mut Chain::default()).unwrap();
        Some(read_all(&mut FakeDriver::new(Box::new(Block::new(disk, options())))))
    }
}

fn spec(path: &Path) -> DiskConfig {
    DiskConfig::new(FileRef::Path(path.into()))
}

fn make_overlay(base: &Path, path: &Path) {
    let overlay = Some(Overlay::File(FileRef::Path(path.into())));
    disk::open(&DiskConfig { overlay, ..spec(base) }, &mut Chain::default()).unwrap();
}

fn start_device(place: &Path, image: Image, readonly: bool, writeback: bool) -> (FakeDriver, u64) {
    let at = |name: &str| -> PathBuf { place.join(name) };
    let raw = DiskConfig { readonly, ..spec(&at("raw")) };
    let spec = match image {
        Image::Sync => DiskConfig { io: IoEngine::Sync, ..raw },
        Image::Ring => DiskConfig { io: IoEngine::Uring, ..raw },
        Image::Direct => DiskConfig { io: IoEngine::Uring, direct: true, ..raw },
        Image::Qcow2 => DiskConfig { readonly, ..spec(&at("middle.qcow2")) },
        Image::OverlayTmp => DiskConfig { overlay: Some(Overlay::Tmp), ..spec(&at("raw")) },
        Image::OverlayFile => {
            let overlay = Some(Overlay::File(FileRef::Path(at("top.qcow2"))));
            DiskConfig { overlay, ..spec(&at("middle.qcow2")) }
        }
    };
    let disk = disk::open(&spec, &mut Chain::default()).unwrap();
    let unit = u64::from(disk.geometry().logical_block) / SECTOR;
    let device = Block::new(disk, Options { queues: QUEUES, writeback, ..options() });
    (FakeDriver::new(Box::new(device)), unit)
}

fn read_all(driver: &mut FakeDriver) -> Vec<u8> {
    driver.offer(0, &[&header(kind::IN, 0)], &[(SECTORS * SECTOR) as usize, 1]);
    driver.kick(0);
    let used = (0..60).find_map(|_| {
        let used = driver.take(0);
        if used.is_none() {
            driver.wait();
        }
        used
    });
    let mut data = used.expect("an answer").data;
    assert_eq!(data.pop(), Some(0));
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_image_is_an_array(
        image in prop::sample::select(&IMAGES[..]),
        readonly in prop::bool::weighted(0.1),
        writeback: bool,
        steps in run_of_steps(),
    ) {
        let readonly = readonly && !matches!(image, Image::OverlayTmp | Image::OverlayFile);
        let (mut bench, mut model) = Bench::new(image, readonly, writeback);
        let start = model.clone();
        let mut advised = false;
        for step in steps {
            let asks = match step {
                Step::Batch(asks) => asks,
                Step::Reset => {
                    bench.driver.initialise(u64::MAX);
                    continue;
                }
                Step::Forget(len) => {
                    bench.forget(len);
                    prop_assert!(bench.whole() == model, "{image:?}, of which a part was forgotten");
                    continue;
                }
                Step::Restart => {
                    bench.restart();
                    if image == Image::OverlayTmp {
                        model.clone_from(&start);
                    }
                    prop_assert!(bench.whole() == model, "{image:?} is not as it was left");
                    continue;
                }
            };
            let mut batch: Vec<Ask> = Vec::new();
            for ask in asks {
                if !batch.iter().any(|other| ask.is_in_the_way_of(other, bench.unit)) {
                    batch.push(ask);
                }
            }
            let answers = bench.run(&batch);
            for (ask, (written, status, data)) in batch.iter().zip(answers) {
                let place = model.get_mut(ask.bytes(bench.unit));
                let expected = match (ask.what, &place) {
                    (What::Unknown, _) => 2,
                    (_, None) => 1,
                    _ if ask.writes() && readonly => 1,
                    _ => 0,
                };
                prop_assert_eq!(status, expected, "{:?}", ask);
                let answered = if status == 0 { data.len() + 1 } else { 1 };
                prop_assert_eq!(written as usize, answered, "{:?}", ask);
                match (ask.what, place) {
                    _ if status != 0 => prop_assert!(data.iter().all(|&byte| byte == 0xaa), "{ask:?}"),
                    (What::Read, Some(place)) => prop_assert!(data == *place, "{ask:?} on {image:?}"),
                    (What::Write(_), Some(place)) => place.copy_from_slice(&ask.data(bench.unit)),
                    (What::Zero(_) | What::Discard, Some(place)) => place.fill(0),
                    (What::Identify, _) => prop_assert_eq!(data, options().id),
                    _ => {}
                }
            }
            prop_assert!(bench.whole() == model, "after {batch:?} on {image:?}");
            let last = Ask { what: What::Flush, at: 0, len: 0, cuts: Default::default(), indirect: false, queue: 0 };
            let flushed = batch.iter().any(|ask| ask.what == What::Flush);
            if flushed {
                bench.run(&[last]);
            }
            // Discarding is advice, which nobody has to find again.
            advised = !flushed && (advised || batch.iter().any(|ask| ask.what == What::Discard));
            let durable = flushed || !writeback && !advised;
            if let Some(found) = durable.then(|| bench.found_after_a_crash()).flatten() {
                prop_assert!(found == model, "not all of {image:?} would be found: {batch:?}");
            }
        }
        if image != Image::Sync && image != Image::Ring && image != Image::Direct {
            prop_assert!(fs::read(bench.place.path().join("raw")).unwrap() == start, "the base was written");
        }
    }
}
