//! Persistent memory against a driver that does what the bytes say. The first byte chooses the transport; afterwards a
//! flush has to be answered for a driver that starts anew.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::testing::{Script, Target, World};
use vmm::devices::virtio::{Pmem, PmemWrites};

/// Bytes that are used: some fifteen steps.
const SCRIPT: usize = 96;
const LEN: u64 = 2 << 20;

/// Whether something else than a flush was asked for.
struct Asked(bool);

impl World for Asked {
    fn request(&mut self, _queue: u16, script: &mut Script<'_>) -> (Vec<u8>, Vec<usize>) {
        let kind = script.number(1) as u8 & 1;
        self.0 |= kind != 0;
        (vec![kind, 0, 0, 0], vec![script.number(1) as usize & 15, 4])
    }
}

thread_local! {
    static TARGETS: RefCell<[(Asked, Target); 3]> = RefCell::new([0, 1, 2].map(|kind| {
        let file = fuzz::file(&[0x5a; 4096]);
        file.set_len(LEN).expect("room in memory");
        let file = file.try_clone().expect("a descriptor");
        let device = Pmem::new(file, LEN, PmemWrites::Shared).expect("a mapping");
        (Asked(false), Target::new(Box::new(device), kind))
    }));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, script)) = data.split_first() else { return };
    TARGETS.with_borrow_mut(|targets| {
        let (asked, target) = &mut targets[usize::from(kind % 3)];
        target.attack(&script[..script.len().min(SCRIPT)], asked);
        assert_eq!(target.watched(), 0);
        let driver = target.driver();
        let used = driver.request(0, &[&[0; 4]], &[8]);
        assert_eq!((used.written, used.data.as_slice()), (4, &[0, 0, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa][..]));
        fuzz::bounded_descriptors();
        let asked = std::mem::take(&mut asked.0);
        #[cfg(feature = "planted")]
        fuzz::plant(&[target.served, target.rested, asked, script.len() > 40]);
        #[cfg(not(feature = "planted"))]
        let _ = asked;
    });
});
