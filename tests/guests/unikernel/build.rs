//! Links the unikernels by `unikernel.ld`.

use abi::layout;

fn main() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("unikernel.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    for arg in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,norelro"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,--defsym=START={:#x}", layout::HIGH_RAM_START);
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
}
