//! How a VM ended. That is an outcome, not an error: an [`Outcome`] is what the guest, or somebody outside, did.
//!
//! | exit code | why |
//! |-|-|
//! | the guest's status | the guest reported one, then powered off or reset |
//! | 0 | it powered off or reset without one |
//! | [`PANIC`] 121 | its kernel panicked |
//! | [`TRIPLE_FAULT`] 122 | triple fault |
//! | [`KVM_STOPPED`] 123 | KVM could not run it any further |
//! | 2 n + 1 | a firmware, or what it booted, wrote n to the debug-exit port, as with QEMU |
//! | [`FAILURE`] 125 | `jiffy` itself failed: flags, files, KVM |
//! | 126, 127 | reported by init: the command cannot be executed, is not there |
//! | 128 + n | signal n ended the VM, or (reported by init) the command |

use std::fmt;

use serde::Serialize;

use crate::kvm::Fault;

/// Exit code for a panic of the guest's kernel.
pub const PANIC: u8 = 121;
/// Exit code for a triple fault.
pub const TRIPLE_FAULT: u8 = 122;
/// Exit code for a guest that KVM could not run any further.
pub const KVM_STOPPED: u8 = 123;
/// Exit code for failures of our own (docker's convention).
pub const FAILURE: u8 = 125;
/// Added to a signal's number (the shell's convention).
const SIGNALLED: u8 = 128;

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest switched the machine off.
    PowerOff {
        /// What its init reported.
        status: Option<u8>,
    },
    /// The guest reset the machine.
    Reset {
        /// What its init reported.
        status: Option<u8>,
    },
    /// The guest's kernel said that it has panicked.
    Panic,
    /// It ended the machine by the debug-exit port, which it has with a firmware.
    DebugExit {
        /// What it wrote; [`abi::firmware::Code`] where Jiffy's firmware did.
        code: u8,
    },
    /// A vCPU shut down.
    TripleFault {
        /// Its APIC id.
        cpu: u8,
        /// Where, and in which state.
        fault: Option<Box<Fault>>,
    },
    /// KVM could not run a vCPU any further.
    KvmStopped {
        /// Its APIC id.
        cpu: u8,
        /// What KVM said.
        reason: String,
        /// Where, and in which state.
        fault: Option<Box<Fault>>,
    },
    /// A signal, or the user at the console, ended the VM.
    Killed {
        /// The signal's number; SIGINT for the user at the console.
        signal: u8,
    },
}

impl Outcome {
    /// The exit code of `jiffy`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::PowerOff { status } | Self::Reset { status } => status.unwrap_or(0),
            Self::Panic => PANIC,
            Self::DebugExit { code } => code << 1 | 1,
            Self::TripleFault { .. } => TRIPLE_FAULT,
            Self::KvmStopped { .. } => KVM_STOPPED,
            Self::Killed { signal } => SIGNALLED.saturating_add(*signal),
        }
    }

    /// Whether there is something to tell the user that the guest has not told.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::PowerOff { .. } | Self::Reset { .. } | Self::Killed { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |f: &mut fmt::Formatter<'_>, fault: &Option<Box<Fault>>| {
            fault.as_ref().map_or(Ok(()), |fault| write!(f, ": {fault}"))
        };
        match self {
            Self::PowerOff { status: Some(status) } => write!(f, "powered off, status {status}"),
            Self::PowerOff { status: None } => write!(f, "powered off"),
            Self::Reset { status: Some(status) } => write!(f, "reset, status {status}"),
            Self::Reset { status: None } => write!(f, "reset"),
            Self::Panic => write!(f, "the guest's kernel panicked"),
            Self::DebugExit { code } => write!(f, "ended by the debug-exit port, code {code:#x}"),
            Self::TripleFault { cpu, fault } => {
                write!(f, "triple fault of vCPU {cpu}")?;
                at(f, fault)
            }
            Self::KvmStopped { cpu, reason, fault } => {
                write!(f, "KVM cannot run vCPU {cpu} any further: {reason}")?;
                at(f, fault)
            }
            Self::Killed { signal } => write!(f, "ended by signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let table = [
            (Outcome::PowerOff { status: None }, 0),
            (Outcome::PowerOff { status: Some(7) }, 7),
            (Outcome::Reset { status: Some(255) }, 255),
            (Outcome::Reset { status: None }, 0),
            (Outcome::Panic, 121),
            (Outcome::DebugExit { code: 0x10 }, 33),
            (Outcome::DebugExit { code: 0xff }, 255),
            (Outcome::TripleFault { cpu: 0, fault: None }, 122),
            (Outcome::KvmStopped { cpu: 1, reason: "x".into(), fault: None }, 123),
            (Outcome::Killed { signal: 15 }, 143),
            (Outcome::Killed { signal: 200 }, 255),
        ];
        for (outcome, code) in table {
            assert_eq!(outcome.exit_code(), code, "{outcome}");
        }
    }

    #[test]
    fn as_json() {
        let json = serde_json::to_string(&Outcome::PowerOff { status: Some(3) }).unwrap();
        assert_eq!(json, r#"{"outcome":"power-off","status":3}"#);
        assert_eq!(serde_json::to_string(&Outcome::Panic).unwrap(), r#"{"outcome":"panic"}"#);
    }
}
