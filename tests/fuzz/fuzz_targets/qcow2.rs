//! qcow2 images of any bytes: refused, or disks that work or fail like any other.
#![no_main]

use std::os::fd::AsRawFd;

use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm::config::{DiskConfig, DiskFormat, FileRef, HugePages, MemorySpec};
use vmm::disk::{Chain, Operation, SECTOR, open};
use vmm::memory::Memory;
use vmm::memory::layout::RamLayout;

/// Bytes of the disk that are looked at, from its start and before its end.
const LOOK: u64 = 4 << 10;

/// Bytes of the guest's memory.
const RAM: u64 = 2 << 20;

thread_local! {
    static MEMORY: Memory = {
        let spec = MemorySpec { size: RAM, huge: HugePages::Default, prealloc: false, shared: false };
        Memory::new(&spec, &RamLayout::new(RAM)).expect("memory")
    };
}

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Some((&how, image)) = data.split_last() else { return };
    let file = fuzz::file(image);
    let mut config = DiskConfig::new(FileRef::Fd(file.as_raw_fd()));
    (config.format, config.readonly) = (Some(DiskFormat::Qcow2), how & 1 != 0);
    let Ok(mut disk) = open(&config, &mut Chain::default()) else { return };
    let size = disk.geometry().size;
    assert!(size != 0 && size.is_multiple_of(SECTOR));
    #[cfg(feature = "planted")]
    fuzz::plant(&[how & 9 == 9, image.len() & 1 << 9 != 0, image.len() % 8 == 5]);
    let memory = MEMORY.with(Clone::clone);
    let map = memory.map();
    let to = [map.get_slice(GuestAddress(1 << 20), SECTOR as usize).expect("memory")];
    let places = (0..LOOK.min(size)).chain(size.saturating_sub(LOOK)..size).step_by(SECTOR as usize);
    for offset in places.map(|place| place & !(SECTOR - 1)) {
        let _ = disk.start(0, &Operation::Read { offset, to: &to });
        if !config.readonly && offset & 1 << 9 != 0 {
            let _ = disk.start(0, &Operation::Write { offset, from: &to, durable: how & 2 != 0 });
        }
    }
    if !config.readonly {
        let len = size.min(LOOK);
        let _ = disk.start(0, &Operation::WriteZeroes { offset: 0, len, unmap: how & 4 != 0, durable: true });
        let _ = disk.start(0, &Operation::Discard { offset: size - len, len });
        let _ = disk.start(0, &Operation::Flush);
    }
});
