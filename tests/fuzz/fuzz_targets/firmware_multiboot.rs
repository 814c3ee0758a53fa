//! Multiboot headers of both kinds: what is to be loaded is in the file.
#![no_main]

use firmware::payload::multiboot1::Addresses;
use firmware::payload::{multiboot1, multiboot2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let len = data.len() as u32;
    let check = |addresses: Addresses, offset| {
        let Ok(plan) = addresses.plan(offset, len) else { return };
        assert!(plan.offset + plan.file_len <= len && plan.file_len <= plan.mem_len);
        assert!(u64::from(addresses.load) + u64::from(plan.mem_len) <= 1 << 32);
    };
    if let Some(header) = multiboot1::Header::find(data)
        && let Some(addresses) = header.addresses
    {
        check(addresses, header.offset);
    }
    let Ok(Some(header)) = multiboot2::Header::find(data) else { return };
    if let Some([header_addr, load, load_end, bss_end]) = header.address {
        let entry = header.entry.unwrap_or(load);
        check(Addresses { header: header_addr, load, load_end, bss_end, entry }, header.offset);
    }
    assert!(header.relocatable.is_none_or(|it| it.align.is_power_of_two()));
    #[cfg(feature = "planted")]
    fuzz::plant(&[header.entry.is_none(), header.relocatable.is_some()]);
});
