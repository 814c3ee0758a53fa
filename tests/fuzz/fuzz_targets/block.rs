//! The block device against a driver that does what the bytes say, on a disk whose operations end at once or in the
//! background, and may fail. The first byte chooses the transport; afterwards the device has to work for a driver that
//! starts anew.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::testing::{Script, Target, World};
use vmm::devices::virtio::{Block, BlockOptions};
use vmm::disk::testing::FakeDisk;

/// Bytes that are used: some fifteen steps.
const SCRIPT: usize = 96;
/// Sectors of the disk.
const SECTORS: u8 = 128;
/// What requests may be of, and one kind that there is not.
const KINDS: [u8; 8] = [0, 1, 4, 8, 11, 13, 0, 2];

struct Disk(FakeDisk);

impl World for Disk {
    fn request(&mut self, _queue: u16, script: &mut Script<'_>) -> (Vec<u8>, Vec<usize>) {
        let kind = KINDS[script.number(1) as usize % KINDS.len()];
        let (sector, len) = (script.number(1), script.number(1) as usize * 64);
        let mut request = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        request.extend(sector.to_le_bytes());
        match kind {
            1 => request.extend(vec![0x5a; len]),
            11 | 13 => {
                request.extend(sector.to_le_bytes());
                request.extend(script.number(6).to_le_bytes());
            }
            _ => return (request, vec![len, 1]),
        }
        (request, vec![1])
    }

    fn stir(&mut self, script: &mut Script<'_>) {
        match script.number(1) % 4 {
            0 => self.0.state().background = true,
            1 => self.0.state().background = false,
            2 => self.0.state().fails ^= true,
            _ => {
                self.0.complete();
            }
        }
    }
}

thread_local! {
    static TARGETS: RefCell<[(Disk, Target); 3]> = RefCell::new([0, 1, 2].map(|kind| {
        let disk = FakeDisk::new(vec![0; 512 * usize::from(SECTORS)], false).expect("an event");
        let options = BlockOptions { queues: 2, id: [b'f'; 20], writeback: true, sync: true, limiter: None };
        let device = Block::new(Box::new(disk.clone()), options);
        (Disk(disk), Target::new(Box::new(device), kind))
    }));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, script)) = data.split_first() else { return };
    TARGETS.with_borrow_mut(|targets| {
        let (disk, target) = &mut targets[usize::from(kind % 3)];
        target.attack(&script[..script.len().min(SCRIPT)], disk);
        let background = {
            let mut state = disk.0.state();
            state.fails = false;
            std::mem::take(&mut state.background)
        };
        assert_eq!(target.watched(), 1);
        let header = [0, 0, 0, 0, 0, 0, 0, 0, SECTORS - 1, 0, 0, 0, 0, 0, 0, 0];
        let used = target.driver().request(0, &[&header], &[512, 1]);
        assert_eq!((used.written, used.data.last()), (513, Some(&0)));
        fuzz::bounded_descriptors();
        #[cfg(feature = "planted")]
        fuzz::plant(&[target.served, target.rested, background]);
        #[cfg(not(feature = "planted"))]
        let _ = background;
    });
});
