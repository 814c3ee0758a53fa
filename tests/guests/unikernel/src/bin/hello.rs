//! Says what it was given, and that it can be here at all.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name is fixed")]

use abi::e820::Kind;
use unikernel::say;
use unikernel::start::Start;

unikernel::unikernel!(main);

fn main(start: Start) {
    let is_ram = |kind: u32| kind == Kind::RAM.0.get();
    let ram: u64 = start.memory().iter().filter(|it| is_ram(it.kind)).map(|it| it.size).sum();
    // Floating point is SSE here.
    let mib = ram as f64 / f64::from(1 << 20);
    say!("unikernel: hello, {} and {mib:.1} MiB", start.cmdline());
}
