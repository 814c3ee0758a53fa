//! Archives of modules: what is accepted is within the archive.
#![no_main]

use firmware::fw_cfg::Item;
use firmware::payload::modules::{Modules, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let archive = Item { select: 0x20, size: data.len() as u32 };
    let mut modules = Modules::new();
    if parse(data, archive, &mut modules).is_err() {
        return;
    }
    for module in &modules {
        assert!(module.len <= archive.size);
        let start = (module.string - firmware::places::ARCHIVE.start) as usize;
        assert!(!data[start..start + module.string_len as usize].contains(&0));
    }
    #[cfg(feature = "planted")]
    fuzz::plant(&[modules.len() == 2, modules.iter().all(|it| it.len == 5)]);
});
