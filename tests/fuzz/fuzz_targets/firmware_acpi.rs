//! The script of the ACPI tables: whatever it says, it stays within its files.
#![no_main]

use std::cell::RefCell;

use firmware::acpi;
use firmware::f_segment::FSegment;
use firmware::fake::Fake;
use firmware::fw_cfg::FwCfg;
use firmware::memory_map;
use libfuzzer_sys::fuzz_target;

const RAM: usize = 1280 << 10;
const FILES: [(&str, usize); 3] = [("etc/acpi/rsdp", 36), ("etc/acpi/tables", 600), ("etc/other", 8)];

thread_local! {
    // One for all runs: what one leaves in memory counts for nothing in the next.
    static MACHINE: RefCell<Fake> = RefCell::new(machine());
}

fn machine() -> Fake {
    let mut fake = Fake::with_ram(RAM);
    for (name, len) in FILES {
        fake.add_file(name, &vec![0x5a; len]);
    }
    fake.add_file("etc/table-loader", &[]);
    fake
}

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    MACHINE.with_borrow_mut(|machine| {
        machine.log.clear();
        machine.mapped.clear();
        let script = machine.set_last_file(data);
        let mut fw_cfg = FwCfg::detect(machine).expect("a device");
        let mut files = fw_cfg.directory(machine).expect("a directory");
        files.table_loader = Some(script);
        let (mut map, mut f_segment) = (Default::default(), FSegment::default());
        memory_map::read(machine, &fw_cfg, &files, &mut map).expect("a map");
        let result = acpi::install(machine, &fw_cfg, &files, &mut map, &mut f_segment);
        if let Err(error) = &result {
            assert!(!error.to_string().contains('\n'));
        }
        let rsdp = result.ok().flatten();
        // Alone in the F segment.
        #[cfg(feature = "planted")]
        fuzz::plant(&[data.len() == 256, rsdp.is_some(), f_segment.take(1, 1) == Some(0xf_0030)]);
        assert!(rsdp.is_none_or(|rsdp| rsdp >= 0xf_0000 && rsdp < RAM as u64));
    });
});
