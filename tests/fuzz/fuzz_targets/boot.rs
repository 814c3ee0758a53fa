//! Whole loads: whatever the kernel file is, its writes are apart, in RAM, and can be placed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm::boot::{BootCpu, Input, Request, load};
use vmm::config::{Kaslr, Protocol};
use vmm::memory::layout::RamLayout;

const RAM: u64 = 64 << 20;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Some((how, kernel)) = data.split_last() else { return };
    let input = |bytes| Input { file: fuzz::file(bytes), name: "kernel" };
    let request = Request {
        kernel: Some(input(kernel)),
        initrd: (how & 1 != 0).then(|| input(&[1; 10])),
        firmware: (how & 8 != 0).then(|| input(&[0x90; 4096])),
        modules: Vec::new(),
        fw_cfg: Vec::new(),
        cmdline: "console=ttyS0",
        protocol: if how & 2 != 0 { Protocol::Pvh } else { Protocol::Auto },
        unpack: how & 4 == 0,
        kaslr: Kaslr::Seed(u64::from(*how)),
        ram: RamLayout::new(RAM),
        rsdp: None,
        unpack_cache: None,
    };
    let state = match load(&request) {
        Ok(state) => state,
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            return;
        }
    };
    let mut ranges: Vec<_> = state.writes.iter().map(|w| (w.addr, w.addr + w.len())).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|two| two[0].1 <= two[1].0));
    assert!(ranges.last().is_none_or(|last| last.1 <= RAM));
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM as usize)]).expect("memory");
    for write in &state.writes {
        let slice = memory.get_slice(GuestAddress(write.addr), write.len() as usize).expect("in RAM");
        write.place(&slice).expect("as long as it was");
    }
    #[cfg(feature = "planted")]
    fuzz::plant(&[!matches!(state.cpu, BootCpu::Reset), how & 0xf0 != 0]);
    assert_eq!(request.firmware.is_some(), matches!(state.cpu, BootCpu::Reset));
});
