//! What QEMU's emulation of SVM does to a guest of the nested lab now and then. It seems to write the host's
//! state over that of a guest's processor at an exit, as was caught once in QEMU 10.0: at the next VMRUN the guest's is at the host's instruction behind
//! VMRUN, on the host's stack, and shuts down by a triple fault. And it can deliver an interrupt twice: where its processor
//! leaves the main loop between VMRUN, which injects one, and the guest's next exit, `helper_vmrun` has left
//! `exception_index` set, which the main loop takes for one that has yet to be delivered. A guest that gets that with a lock
//! held spins until its deadline.

use agent::Status;

use super::StepReport;

/// What `jiffy` ends with after a triple fault.
const TRIPLE_FAULT: u8 = 122;
/// And what it says, which is what is left where a script has started it.
const FAULT: &str = "jiffy: triple fault of ";
/// What it says when the guest's kernel has panicked.
const PANIC: &str = "jiffy: the guest's kernel panicked";
/// A vCPU is busy that executes for so much of the second at a deadline in which it is watched.
const BUSY_MS: u32 = 500;

/// How the emulator may have failed a guest. One that waits for what never comes was not failed by it.
pub fn fault(report: &StepReport) -> Option<&'static str> {
    let busy = |line: &str| {
        let (_, told) = line.strip_prefix("at the deadline: vcpu")?.split_once(" R, ")?;
        told.split(' ').next()?.parse::<u32>().ok()
    };
    let stderr = String::from_utf8_lossy(&report.stderr);
    match report.status {
        Status::Exited(TRIPLE_FAULT) => Some("a triple fault"),
        _ if stderr.lines().any(|line| line.starts_with(FAULT)) => Some("a triple fault"),
        Status::TimedOut if stderr.lines().filter_map(busy).any(|ms| ms >= BUSY_MS) => Some("a vCPU spins"),
        _ => None,
    }
}

/// What `jiffy` says when its guest has crashed, of itself or by an interrupt that was delivered twice.
#[must_use]
pub fn crash(report: &StepReport) -> Option<String> {
    let said = [&report.stdout, &report.stderr].map(|said| String::from_utf8_lossy(said));
    let crash = |line: &&str| [FAULT, PANIC].iter().any(|crash| line.starts_with(crash));
    said.iter().flat_map(|said| said.lines()).find(crash).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn report(status: Status, stdout: &str, stderr: &str) -> StepReport {
        StepReport {
            name: String::new(),
            status,
            stdout: stdout.into(),
            stderr: stderr.into(),
            files: BTreeMap::new(),
            started_ns: 0,
            ended_ns: 0,
            cpu: Duration::ZERO,
        }
    }

    #[test]
    fn crashes_are_told_from_other_ends() {
        let crash = |stdout: &str, stderr: &str| crash(&report(Status::Exited(121), stdout, stderr));
        assert_eq!(crash("hello", &format!("a warning\n{PANIC}\n")).as_deref(), Some(PANIC));
        let fault = "jiffy: triple fault of vCPU 0: at 0x1000";
        assert_eq!(crash(fault, "").as_deref(), Some(fault));
        assert_eq!(crash("the guest's kernel panicked", "jiffy: powered off"), None);
    }

    #[test]
    fn who_spins_does_not_wait() {
        let of = |status, stderr: &str| fault(&report(status, "", stderr));
        let line =
            |thread: &str, rest: &str| format!("at the deadline: {thread} (7) {rest} ms busy in a second\n");
        let waits = [line("vcpu0", "S, 20"), line("devices", "R, 1000")].concat();
        assert_eq!(of(Status::TimedOut, &waits), None);
        assert_eq!(of(Status::TimedOut, &line("vcpu0", "R, 30")), None);
        let spinning = [waits, line("vcpu1", "R, 1000")].concat();
        assert_eq!(of(Status::TimedOut, &spinning), Some("a vCPU spins"));
        assert_eq!(of(Status::Exited(1), &spinning), None);
        assert_eq!(of(Status::Exited(122), ""), Some("a triple fault"));
        let said = "ip: there already\njiffy: triple fault of vCPU 0: its registers\n";
        assert_eq!(of(Status::Exited(0), said), Some("a triple fault"));
        assert_eq!(of(Status::TimedOut, said), Some("a triple fault"));
        assert_eq!(of(Status::Exited(1), "a guest says jiffy: triple fault of\n"), None);
    }
}
