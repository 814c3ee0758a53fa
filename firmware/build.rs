//! Links `jiffy-firmware` by `src/bin/jiffy-firmware/rom.ld`, with addresses from the machine contract.

use abi::layout;

/// The ROM's size in bytes: what is behind the fast path's 64 KiB has its place before them.
const ROM_LEN: u64 = 64 << 10;
/// `firmware::places::DMA` starts here.
const STACK_END: u64 = layout::FIRMWARE_RAM.end() - 0x3040;
const _: () = assert!(ROM_LEN.is_multiple_of(64 << 10) && ROM_LEN <= layout::ROM.len);

fn main() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/jiffy-firmware/rom.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    let symbols = [
        ("ROM_START", layout::ROM.end() - ROM_LEN),
        ("ROM_END", layout::ROM.end()),
        ("STACK_END", STACK_END),
    ];
    let mut args = vec![
        "-nostartfiles".to_string(),
        "-nostdlib".to_string(),
        "-static".to_string(),
        // The code is position-independent, which is how it reaches addresses above 2 GiB; nobody would relocate
        // its data.
        "-no-pie".to_string(),
        "-Wl,--build-id=none".to_string(),
        "-Wl,--no-eh-frame-hdr".to_string(),
        "-Wl,-z,norelro".to_string(),
        format!("-Wl,-T,{}", script.display()),
    ];
    args.extend(symbols.map(|(name, value)| format!("-Wl,--defsym={name}={value:#x}")));
    for arg in args {
        println!("cargo::rustc-link-arg-bin=jiffy-firmware={arg}");
    }
}
