//! Jiffy's PID 1: makes a freshly booted kernel fit to run one command, runs it, reports its status, powers off.
//!
//! Written without the standard library: the same library under a `main` of std's, static, costs the boot 2.1 million
//! instructions more. Measured with Debian's 6.1 kernel under QEMU's icount, with the greeting as the workload, so
//! that the program is started twice:
//!
//! | form | bytes | kernel's `Run /init` to `Power down` | unpacking it from the initramfs |
//! |-|-|-|-|
//! | this one | 49 thousand | 0.86 million instructions | 0.1 million |
//! | std, `+crt-static`, opt-level s, LTO | 1121 thousand | 1.69 million | 1.4 million |
//!
//! Everything but entry, heap and panic is in this library, which also builds on the host for its unit tests.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod cmdline;
mod config;
mod console;
mod error;
mod file;
mod greeting;
mod init;
mod modules;
mod mounts;
mod ports;
mod power;
mod sys;
mod workload;

use core::ffi::CStr;
use core::panic::PanicInfo;

use console::say;
use ports::Ports;

const USAGE: &str = "\
jiffy-init is the first process of a virtual machine (PID 1): it sets the machine up, runs one command, reports the
command's exit status and powers off.

Usage: on a kernel's command line: rdinit=/init [-- COMMAND [ARGUMENT...]]
       jiffy-init greet    print what this machine is and how long it took to start

What it does is configured by /etc/jiffy/init.conf.
";

/// The program, from the strings that the kernel passed.
pub fn main<S>(mut args: S, environment: S) -> !
where
    S: Iterator<Item = &'static CStr> + Clone,
{
    let ports = Ports::announced();
    if rustix::process::getpid().is_init() {
        if let Some(ports) = &ports {
            ports.mark(abi::timeline::Mark::INIT_START);
        }
        init::run(ports, args, environment);
    }
    match args.nth(1).map(CStr::to_bytes) {
        Some(b"greet") => {
            console::print(&greeting::Greeting::gather(ports.as_ref()));
            sys::exit(0)
        }
        _ => {
            console::print(&USAGE);
            sys::exit(2)
        }
    }
}

/// Says where the program panicked; ends the VM if it is PID 1.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    say(format_args!("{info}"));
    if rustix::process::getpid().is_init() {
        power::off(Ports::announced().as_ref(), power::INIT_FAILED);
    }
    sys::exit(power::INIT_FAILED)
}
