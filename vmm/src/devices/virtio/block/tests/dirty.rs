//! Pages that reads have filled, on images of files.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::config::{DiskConfig, FileRef, IoEngine};
use crate::disk::{self, Chain, Operation};
use crate::memory::PAGE;

/// A disk of which everything ends in the background, also where there is no io_uring.
struct Later(Box<dyn Backend>, VecDeque<(u16, io::Result<()>)>);

impl Backend for Later {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn start(&mut self, id: u16, operation: &Operation<'_>) -> Option<io::Result<()>> {
        let result = self.0.start(id, operation).unwrap();
        self.1.push_back((id, result));
        None
    }

    fn completed(&mut self) -> Option<(u16, io::Result<()>)> {
        self.1.pop_front()
    }
}

fn contents(driver: &FakeDriver) -> Vec<u8> {
    let map = driver.memory.map();
    let mut bytes = vec![0; map.iter().map(|region| region.size()).sum()];
    map.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// A way to read: by which engine, past the page cache, and in the background.
type Way = (IoEngine, bool, bool);

fn disk(path: &Path, (io, direct, later): Way) -> Box<dyn Backend> {
    let spec = DiskConfig { io, direct, ..DiskConfig::new(FileRef::Path(path.into())) };
    let disk = disk::open(&spec, &mut Chain::default()).unwrap();
    if later { Box::new(Later(disk, VecDeque::new())) } else { disk }
}

/// However it is read, into one buffer or many, and whether or not pages were tracked when it was asked for.
#[test]
fn every_page_that_has_changed_is_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    for (room, late) in [&[4 * PAGE][..], &[512, 0, 2 * PAGE, 1024], &[512; 40]]
        .into_iter()
        .flat_map(|room| [(room, false), (room, true)])
    {
        for way in [
            (IoEngine::Sync, false, false),
            (IoEngine::Sync, true, false),
            (IoEngine::Sync, false, true),
            (IoEngine::Uring, false, false),
            (IoEngine::Uring, true, false),
        ] {
            let mut driver = FakeDriver::new(Box::new(Block::new(disk(&path, way), options())));
            let writable: Vec<usize> = room.iter().copied().chain([1]).collect();
            driver.offer_indirect(0, &[&header(kind::IN, 8)], &writable);
            if late {
                driver.core.ring(0);
            }
            driver.memory.track(true);
            let before = contents(&driver);
            driver.kick(0);
            let used = loop {
                match driver.take(0) {
                    Some(used) => break used,
                    None => driver.wait(),
                }
            };
            let (status, data) = used.data.split_last().unwrap();
            assert!(*status == 0 && data.iter().all(|&byte| byte == 7), "{way:?}");
            let (after, dirty) = (contents(&driver), driver.memory.take_dirty());
            let pages = before.chunks(PAGE).zip(after.chunks(PAGE));
            let changed: Vec<_> = pages.enumerate().filter(|(_, (before, after))| before != after).collect();
            assert!(changed.len() > data.len() / PAGE, "what was read, and the rings");
            for (page, _) in changed {
                let is_dirty = dirty[0].1[page / 64] >> (page % 64) & 1 == 1;
                assert!(is_dirty, "page {page}, read by {way:?} into {room:?}, tracked late: {late}");
            }
        }
    }
}
