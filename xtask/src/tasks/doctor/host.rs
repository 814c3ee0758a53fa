//! What else a host may have, beside KVM.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::apt;

use super::{Item, syscalls};

/// The command that installs QEMU.
pub const GET_QEMU: &str = "sudo apt-get install --no-install-recommends qemu-system-x86";

/// Whether xtask can install packages by itself here.
pub fn can_install() -> bool {
    rustix::process::geteuid().is_root() && apt::find("apt-get").is_some()
}

/// QEMU, and whether its emulated processor has the extension that the nested lab's KVM needs.
pub fn qemu() -> Item {
    let lacks = |found: String| Item {
        name: "QEMU",
        ok: false,
        found,
        means: "no nested lab, and no firmware tests",
        mend: Some(GET_QEMU.into()),
    };
    let Some(program) = apt::find("qemu-system-x86_64") else { return lacks("not installed".into()) };
    match ask_qemu(&program) {
        Ok((version, true)) => Item {
            name: "QEMU",
            ok: true,
            found: format!("{version}, emulates AMD SVM"),
            means: "the nested lab runs any guest, whatever KVM offers here",
            mend: None,
        },
        Ok((version, false)) => lacks(format!("{version}, without AMD SVM in `-cpu max`")),
        Err(error) => lacks(format!("{} does not answer: {error:#}", program.display())),
    }
}

/// QEMU's version, and whether `-cpu max` has SVM under emulation (QEMU Machine Protocol).
fn ask_qemu(program: &Path) -> Result<(String, bool)> {
    let mut qemu = Command::new(program)
        .args(["-M", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let questions = concat!(
        r#"{"execute":"qmp_capabilities"}{"execute":"query-cpu-model-expansion","#,
        r#""arguments":{"type":"full","model":{"name":"max"}}}{"execute":"quit"}"#,
    );
    let written = qemu.stdin.take().context("no standard input")?.write_all(questions.as_bytes());
    let output = qemu.wait_with_output()?;
    written?;
    let answers: Vec<Value> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>()?;
    let found = |pointer: &str| answers.iter().find_map(|answer| answer.pointer(pointer));
    let version = found("/QMP/version/qemu").context("no version in its greeting")?;
    let part = |name: &str| version.get(name).map_or_else(String::new, Value::to_string);
    let svm = found("/return/model/props/svm").context("no properties of `-cpu max`")?;
    ensure!(output.status.success(), "{}", output.status);
    Ok((format!("{}.{}.{}", part("major"), part("minor"), part("micro")), svm.as_bool() == Some(true)))
}

/// Everything that guests can do without.
pub fn items() -> Vec<Item> {
    let io_uring = (syscalls::try_io_uring(), "sudo sysctl -w kernel.io_uring_disabled=0");
    let userfaultfd = (syscalls::try_userfaultfd(), "sudo sysctl -w vm.unprivileged_userfaultfd=1");
    vec![
        huge_pages(),
        cgroups(),
        device("tap", "/dev/net/tun", "tun", "for guests' networks: `--net tap=NAME`"),
        passt(),
        device("vhost-net", "/dev/vhost-net", "vhost_net", "for faster networks; jiffy does not use it yet"),
        device("vhost-vsock", "/dev/vhost-vsock", "vhost_vsock", "for vsock; jiffy does not use it yet"),
        syscall("io_uring", io_uring, "for disks: `--disk path=FILE,io=uring`"),
        syscall("userfaultfd", userfaultfd, "for memory filled on demand; jiffy does not use it yet"),
    ]
}

/// A device node that has to be there and to open.
fn device(name: &'static str, path: &str, module: &str, means: &'static str) -> Item {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let (found, mend) = match &opened {
        Ok(_) => (format!("{path} opens"), None),
        Err(e) => match e.kind() {
            ErrorKind::PermissionDenied => {
                (format!("{path}: no permission"), Some(format!("sudo setfacl -m u:$USER:rw {path}")))
            }
            ErrorKind::NotFound => (format!("{path} is not there"), Some(format!("sudo modprobe {module}"))),
            _ => (format!("{path}: {e}"), Some(format!("sudo modprobe {module}"))),
        },
    };
    Item { name, ok: opened.is_ok(), found, means, mend }
}

/// A system call that was tried, with the command that allows it.
fn syscall(name: &'static str, (tried, mend): (rustix::io::Result<()>, &str), means: &'static str) -> Item {
    let (found, mend) = match tried {
        Ok(()) => ("works".into(), None),
        // No command brings it.
        Err(rustix::io::Errno::NOSYS) => ("not in this kernel".into(), None),
        Err(e) => (format!("refused: {e}"), Some(mend.into())),
    };
    Item { name, ok: tried.is_ok(), found, means, mend }
}

/// Transparent huge pages, and the pool of reserved ones.
fn huge_pages() -> Item {
    let modes = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let mode = chosen(&modes).unwrap_or("absent");
    let pool = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let pool: u64 = pool.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let (thp, reserved) = (matches!(mode, "always" | "madvise"), pool > 0);
    let (means, mend) = match (thp, reserved) {
        (true, true) => ("`--memory …,huge=thp` and `huge=2M` work", None),
        (true, false) => {
            ("`--memory …,huge=thp` works, `huge=2M` does not", Some("sudo sysctl -w vm.nr_hugepages=256"))
        }
        (false, true) => (
            "`--memory …,huge=2M` works, `huge=thp` has no effect",
            Some("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        ),
        (false, false) => ("guest memory is in small pages", Some("sudo sysctl -w vm.nr_hugepages=256")),
    };
    let found = format!("transparent: {mode}; pool: {pool} free pages of 2 MiB");
    Item { name: "huge pages", ok: thp || reserved, found, means, mend: mend.map(Into::into) }
}

/// The word in brackets, as the kernel marks the mode that is in force.
fn chosen(modes: &str) -> Option<&str> {
    Some(modes.split_once('[')?.1.split_once(']')?.0)
}

fn cgroups() -> Item {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let (found, mend) = match &controllers {
        Ok(list) => (format!("version 2: {}", list.trim()), None),
        Err(_) => (
            "version 2 is not mounted at /sys/fs/cgroup".into(),
            Some("sudo mount -t cgroup2 none /sys/fs/cgroup".into()),
        ),
    };
    Item {
        name: "cgroups",
        ok: controllers.is_ok(),
        found,
        means: "for limits on a VM, set from outside",
        mend,
    }
}

fn passt() -> Item {
    let path = apt::find("passt");
    let (found, mend) = match &path {
        Some(path) => (path.display().to_string(), None),
        None => ("not installed".into(), Some("sudo apt-get install passt".into())),
    };
    let means = "for networks without root: `--net passt=SOCKET`";
    Item { name: "passt", ok: path.is_some(), found, means, mend }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_in_force_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn an_absent_device_names_its_module() {
        let item = device("x", "/dev/not-there-at-all", "xyz", "m");
        assert!(!item.ok && item.found.contains("is not there"));
        assert_eq!(item.mend.as_deref(), Some("sudo modprobe xyz"));
        assert!(device("null", "/dev/null", "x", "m").ok);
    }

    #[test]
    fn a_call_that_the_kernel_lacks_has_no_remedy() {
        use rustix::io::Errno;
        assert_eq!(syscall("x", (Err(Errno::NOSYS), "do"), "m").mend, None);
        assert_eq!(syscall("x", (Err(Errno::PERM), "do"), "m").mend.as_deref(), Some("do"));
        assert!(syscall("x", (Ok(()), "do"), "m").ok);
    }
}
