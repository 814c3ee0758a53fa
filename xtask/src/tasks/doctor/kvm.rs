//! What KVM is worth here, and why it is not more.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use xtask::ctx::Ctx;
use xtask::probe::{self, Level};

use super::Item;
use crate::tasks::build;

/// What was found.
pub struct Kvm {
    pub level: Level,
    pub item: Item,
}

/// Builds `jiffy` and has it run its probe guest.
pub fn look(ctx: &Ctx) -> Result<Kvm> {
    build::jiffy(ctx)?;
    let probe = probe::probe(ctx)?;
    let (found, means) = match probe.level {
        Level::Hardware => ("hardware", "all guests run at full speed"),
        Level::Software => ("software mode", "tiny guests run natively; Linux needs the nested lab"),
        Level::None => ("none", "no guest runs natively; all need the nested lab"),
    };
    let found = probe.reason.map_or_else(|| found.into(), |reason| format!("{found}: {reason}"));
    let mend = if probe.level == Level::Hardware { None } else { mend(probe.level) };
    let item = Item { name: "KVM", ok: probe.level == Level::Hardware, found, means, mend };
    Ok(Kvm { level: probe.level, item })
}

/// The command that gives more of KVM, where one does.
fn mend(level: Level) -> Option<String> {
    if level == Level::Software {
        // The host's hypervisor decides that; nothing here changes it.
        return None;
    }
    match OpenOptions::new().read(true).write(true).open("/dev/kvm").err()?.kind() {
        ErrorKind::PermissionDenied => Some(permit(fs::metadata("/dev/kvm").ok()?.gid())),
        _ => load(&fs::read_to_string("/proc/cpuinfo").ok()?),
    }
}

/// The command that lets this user open a device that group `gid` may open.
fn permit(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid.to_string() && gid != 0).then(|| name.to_owned())
    });
    match group {
        Some(group) => format!("sudo usermod -aG {group} $USER, then log in again"),
        None => "sudo setfacl -m u:$USER:rw /dev/kvm".into(),
    }
}

/// The command that loads KVM's module for the processor that `cpuinfo` describes.
fn load(cpuinfo: &str) -> Option<String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let module = [("svm", "kvm_amd"), ("vmx", "kvm_intel")].into_iter().find(|(flag, _)| has(flag))?.1;
    Some(format!("sudo modprobe {module}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_the_processors() {
        let cpu = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu {flags} sse2\n");
        assert_eq!(load(&cpu("svm")).as_deref(), Some("sudo modprobe kvm_amd"));
        assert_eq!(load(&cpu("vmx")).as_deref(), Some("sudo modprobe kvm_intel"));
        assert_eq!(load(&cpu("svm_lock")), None);
        assert_eq!(load(""), None);
    }
}
