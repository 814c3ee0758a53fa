//! A guest, and what must come of it.

use agent::{Act, Reaction, Status, Stdin, Step};
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use xtask::lab::StepReport;

/// What the kernel is told beside the workload; testing its ciphers is most of its boot, and an eighth of the rest is making
/// files of tracers and of its allocator that nobody reads.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=k cryptomgr.notests \
                       initcall_blacklist=tracer_init_tracefs,slab_sysfs_init";
/// Many times what any guest takes: on a slow and busy host all of them have been seen to take ten times as long as else.
/// What hangs ends here, and fails.
const DEADLINE_MS: u64 = 120_000;
/// For a guest's shell: `$p` is the device of the virtio console's port `log`. Ports are announced after the driver is up,
/// one message after the other.
pub const PORT: &str = "until p=$(grep -l log /sys/class/virtio-ports/*/name 2>/dev/null); do sleep 0.1; done; \
    mdev -s; p=/dev/$(echo $p | cut -d/ -f5)";
/// Where `--result` goes.
const RESULT: &str = "result.json";

/// A look at what came of a run, beyond exit status and messages.
type Look = Box<dyn Fn(&StepReport) -> Result<()> + Send + Sync>;

/// A run of `jiffy run` and what must come of it.
pub struct Guest {
    name: String,
    /// What comes before `jiffy`'s path: a program that prepares something and then executes the rest.
    within: Vec<String>,
    args: Vec<String>,
    cmdline: String,
    workload: Vec<String>,
    env: Vec<(String, String)>,
    reactions: Vec<Reaction>,
    status: Status,
    says: Vec<String>,
    complains: Vec<String>,
    looks: Vec<Look>,
}

impl Guest {
    /// A guest of which nothing is given and exit status 0 is expected.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            within: Vec::new(),
            args: Vec::new(),
            cmdline: CMDLINE.to_owned(),
            workload: Vec::new(),
            env: Vec::new(),
            reactions: Vec::new(),
            status: Status::Exited(0),
            says: Vec::new(),
            complains: Vec::new(),
            looks: Vec::new(),
        }
    }

    /// The test's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A flag of `jiffy run` and its value; `{name}` in it is a file of the lab.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([format!("--{flag}"), value.to_owned()]);
        self
    }

    /// Further arguments of `jiffy run`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// A variable of `jiffy`'s environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whatever `jiffy` leaves behind goes to a folder of its own, and that must be empty in the end. It has no
    /// cache.
    #[must_use]
    pub fn leaves_nothing(self) -> Self {
        let folders = ["HOME", "TMPDIR", "XDG_RUNTIME_DIR"];
        let guest = folders.into_iter().fold(self, |guest, name| guest.env(name, "{out}"));
        guest.env("XDG_CACHE_HOME", "/dev/null/none").look(|report| {
            ensure!(report.files.is_empty(), "left behind: {:?}", report.files.keys());
            Ok(())
        })
    }

    /// Words for the kernel.
    #[must_use]
    pub fn kernel_words(mut self, words: &str) -> Self {
        self.cmdline = format!("{} {words}", self.cmdline);
        self
    }

    /// What init runs: a program and its arguments.
    #[must_use]
    pub fn workload(mut self, words: &[&str]) -> Self {
        self.workload = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// What init runs: a line for the guest's shell, without double quotes.
    #[must_use]
    pub fn shell(self, line: &str) -> Self {
        assert!(!line.contains('"'), "the kernel's command line knows no escapes: {line}");
        self.workload(&["/bin/sh", "-c", line])
    }

    /// Runs `jiffy` by this program: words, to which the command is added.
    #[must_use]
    pub fn within(mut self, words: &[&str]) -> Self {
        self.within = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Does something when the console has shown this text (after what the previous reaction waited for).
    #[must_use]
    pub fn when(mut self, after: &str, act: Act) -> Self {
        self.reactions.push(Reaction { after: after.to_owned(), act });
        self
    }

    /// The console must show this line.
    #[must_use]
    pub fn says(mut self, line: &str) -> Self {
        self.says.push(line.to_owned());
        self
    }

    /// `jiffy` must write this text to standard error.
    #[must_use]
    pub fn complains(mut self, text: &str) -> Self {
        self.complains.push(text.to_owned());
        self
    }

    /// `jiffy` must end with this exit status.
    #[must_use]
    pub fn exits(mut self, status: u8) -> Self {
        self.status = Status::Exited(status);
        self
    }

    /// `--result` must have these values, each named by a JSON pointer.
    #[must_use]
    pub fn results<const N: usize>(self, values: [(&'static str, Value); N]) -> Self {
        self.flag("result", &format!("{{out}}/{RESULT}")).look(move |report| {
            let Some(bytes) = report.files.get(RESULT) else { bail!("no {RESULT} was written") };
            let result: Value = serde_json::from_slice(bytes)?;
            for (pointer, expected) in &values {
                let found = result.pointer(pointer);
                ensure!(found == Some(expected), "{pointer} of the result is {found:?}, not {expected}");
            }
            Ok(())
        })
    }

    /// The run must also satisfy this.
    #[must_use]
    pub fn look(mut self, look: impl Fn(&StepReport) -> Result<()> + Send + Sync + 'static) -> Self {
        self.looks.push(Box::new(look));
        self
    }

    /// The run, for a lab in which `jiffy` is a file.
    #[must_use]
    pub fn step(&self) -> Step {
        let mut argv = self.within.clone();
        argv.extend(["{jiffy}".to_owned(), "run".to_owned()]);
        argv.extend(self.args.iter().cloned());
        if !self.workload.is_empty() {
            let words: Vec<String> = self.workload.iter().map(|word| quoted(word)).collect();
            argv.extend(["--cmdline".to_owned(), format!("{} -- {}", self.cmdline, words.join(" "))]);
        }
        let open = self.reactions.iter().any(|reaction| matches!(reaction.act, Act::Write(_) | Act::Close));
        Step {
            name: self.name.clone(),
            argv,
            env: self.env.clone(),
            stdin: if open { Stdin::Open } else { Stdin::Empty },
            reactions: self.reactions.clone(),
            deadline_ms: DEADLINE_MS,
        }
    }

    /// Whether the run did what it must.
    pub fn check(&self, report: &StepReport) -> Result<()> {
        let stdout = String::from_utf8_lossy(&report.stdout);
        let stderr = String::from_utf8_lossy(&report.stderr);
        ensure!(report.status == self.status, "it ended with {:?}, not {:?}", report.status, self.status);
        for line in &self.says {
            ensure!(
                stdout.lines().any(|shown| shown.trim_end() == line),
                "the console never showed {line:?}"
            );
        }
        for text in &self.complains {
            ensure!(stderr.contains(text), "standard error has no {text:?}");
        }
        self.looks.iter().try_for_each(|look| look(report))
    }
}

/// As the kernel splits its command line: white space ends a word outside of double quotes.
fn quoted(word: &str) -> String {
    if word.contains(char::is_whitespace) { format!("\"{word}\"") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn report(status: Status, stdout: &str, stderr: &str) -> StepReport {
        StepReport {
            name: "guest".to_owned(),
            status,
            stdout: stdout.into(),
            stderr: stderr.into(),
            files: BTreeMap::from([(RESULT.to_owned(), br#"{"outcome":"reset","a":[1]}"#.to_vec())]),
            started_ns: 0,
            ended_ns: 0,
            cpu: Duration::ZERO,
        }
    }

    #[test]
    fn words_of_a_run() {
        let guest = Guest::new("x").flag("kernel", "{vmlinuz}").args(&["--invtsc"]).shell("echo a; exit 3");
        assert_eq!(
            guest.step().argv,
            [
                "{jiffy}",
                "run",
                "--kernel",
                "{vmlinuz}",
                "--invtsc",
                "--cmdline",
                &format!("{CMDLINE} -- /bin/sh -c \"echo a; exit 3\""),
            ]
        );
        let guest = Guest::new("x").within(&["setpriv", "--nnp"]).when("ready", Act::Write(b"x".to_vec()));
        assert_eq!(guest.step().argv, ["setpriv", "--nnp", "{jiffy}", "run"]);
        assert_eq!(guest.step().stdin, Stdin::Open);
    }

    #[test]
    fn every_expectation_can_fail() {
        let passed =
            |guest: Guest| guest.check(&report(Status::Exited(3), "ready\r\ndone\r\n", "jiffy: no")).is_ok();
        let guest = || Guest::new("x").exits(3);
        assert!(passed(guest().says("done").says("ready").complains("no")));
        assert!(!passed(Guest::new("x").says("done")), "status");
        assert!(!passed(guest().says("don")), "part of a line");
        assert!(!passed(guest().complains("yes")));
        assert!(!passed(guest().look(|_| bail!("never"))));
        assert!(passed(guest().results([("/outcome", "reset".into()), ("/a/0", 1.into())])));
        assert!(!passed(guest().results([("/outcome", "panic".into())])));
        assert!(!passed(guest().results([("/nothing", Value::Null)])));
        let timed_out = report(Status::TimedOut, "done\n", "");
        assert!(guest().says("done").check(&timed_out).is_err());
    }
}
