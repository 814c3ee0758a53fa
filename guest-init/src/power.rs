//! The end of the VM.

use rustix::fs::{Access, access};
use rustix::system::{RebootCommand, reboot};

use crate::console::{self, say};
use crate::error::Reason;
use crate::ports::Ports;
use crate::sys;

/// Status of a VM whose init could not do its part.
pub const INIT_FAILED: u8 = 125;
/// Status of a workload that is there but can't be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// Status of a workload that is not there.
pub const NOT_FOUND: u8 = 127;
/// Status of a workload that signal n killed, less n.
pub const KILLED_BY_SIGNAL: u8 = 128;

/// Reports `status`, lets the console finish, writes back all file systems and switches off.
pub fn off(ports: Option<&Ports>, status: u8) -> ! {
    match ports {
        Some(ports) => ports.exit_status(status),
        None => say(format_args!("exit status {status}")),
    }
    console::drain();
    rustix::fs::sync();
    // A kernel without ACPI can't switch off: it would halt for ever. A reset ends the VM as well.
    let command = match access(c"/sys/firmware/acpi", Access::EXISTS) {
        Ok(()) => RebootCommand::PowerOff,
        Err(_) => RebootCommand::Restart,
    };
    if let Err(errno) = reboot(command) {
        say(format_args!("switch off: {}", Reason(errno)));
    }
    // The kernel panics when its init ends, and a panic ends the VM.
    sys::exit(status)
}
