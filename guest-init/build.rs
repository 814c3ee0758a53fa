//! Links `jiffy-init` as a static program with an entry of its own.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // -no-pie: the code is position-independent, yet nobody would relocate its data. The rest saves size: one
    // segment less, no tables for unwinding, which never happens.
    for arg in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,norelro",
    ] {
        println!("cargo::rustc-link-arg-bin=jiffy-init={arg}");
    }
}
