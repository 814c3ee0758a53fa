//! What those who come from other VMMs write.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{RawConfig, fields};

/// Flags of QEMU, Firecracker, Cloud Hypervisor and crosvm, each with ours for the same.
pub(super) const FLAGS: [(&str, &str); 16] = [
    ("append", "cmdline"),
    ("params", "cmdline"),
    ("bios", "firmware"),
    ("initramfs", "initrd"),
    ("config-file", "config"),
    ("smp", "cpus"),
    ("vcpus", "cpus"),
    ("m", "memory"),
    ("mem", "memory"),
    ("drive", "disk"),
    ("blockdev", "disk"),
    ("block", "disk"),
    ("netdev", "net"),
    ("nic", "net"),
    ("serial", "console"),
    ("M", "machine"),
];

/// What to write instead of a flag that there is not, where it is known better than by similarity.
pub(super) fn tip(e: &clap::Error) -> Option<String> {
    let (ErrorKind::UnknownArgument, Some(ContextValue::String(arg))) =
        (e.kind(), e.get(ContextKind::InvalidArg))
    else {
        return None;
    };
    let name = arg.trim_start_matches('-');
    if let Some((_, ours)) = FLAGS.iter().find(|(theirs, _)| *theirs == name) {
        return Some(format!("tip: here that is 'jiffy run --{ours}'"));
    }
    // Not by clap's definition: made in two places, it would be code apart from what a start runs.
    if ["config", "print-config"].contains(&name) || fields::<RawConfig>().contains(&name) {
        return Some(format!("tip: write 'jiffy run --{name}'"));
    }
    let is_short =
        arg.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
    is_short.then(|| "tip: flags begin with two dashes, as '--kernel' does".to_owned())
}
