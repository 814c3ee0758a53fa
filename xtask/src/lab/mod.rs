//! Labs: "these files, this command, these limits", run in one of three ways.
//!
//! | way | what runs | for |
//! |-|-|-|
//! | [`Way::Native`] | the command, on this host | what this host's KVM can do |
//! | [`Way::Nested`] | the command, in a Linux with KVM of its own, under QEMU | real guests under `jiffy`, anywhere |
//! | [`qemu`] | a guest, directly under QEMU | firmware; comparing `jiffy` with QEMU |
//!
//! A [`Lab`] runs a list of steps at one start, since starting a nested lab takes seconds; [`qemu::Machine`] runs
//! one guest. Each run has a deadline; one that hangs is an error that shows the last lines of its console.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::{Event, Plan, Status, Step};
use anyhow::{Context, Result};

use crate::ctx::Ctx;

pub mod emulator;
mod native;
mod nested;
pub mod qemu;

/// Where a lab's commands run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On this host.
    Native,
    /// In a nested lab: Linux under QEMU, with hardware virtualisation emulated.
    Nested(Speed),
}

/// How QEMU counts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// As fast as it goes; clocks show wall time.
    Functional,
    /// One instruction is one nanosecond of virtual time, and the same files give the same times (to the digit, by
    /// this seed). One CPU. Now and then such a run stalls: it then ends at its deadline, and is worth repeating.
    Exact {
        /// For all that is random.
        seed: u64,
    },
}

/// Files, limits and a place where commands are run.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Where its commands run.
    pub way: Way,
    /// RAM of a nested lab, in MiB. RAM of guests in it counts when they touch it.
    pub memory_mib: u32,
    /// Modules of a nested lab's kernel beside those for KVM.
    pub modules: Vec<String>,
    /// Whether the first step of a nested lab whose standard input is open reads this process's.
    pub forward_stdin: bool,
    /// Further arguments for the QEMU of a nested lab.
    pub emulator_args: Vec<String>,
    /// Wall time that a nested lab has for its start and end, and, where time is virtual, for what its steps take beyond
    /// their deadlines.
    pub allowance: Duration,
    files: BTreeMap<String, PathBuf>,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each step, in their order.
    pub steps: Vec<StepReport>,
    /// When the first step could begin: nanoseconds of the lab's `CLOCK_MONOTONIC`.
    pub ready_ns: u64,
    /// Wall time of the whole run, starting the lab included.
    pub wall: Duration,
    /// What a nested lab's own console showed.
    pub console: String,
}

/// What came of a step.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// How the command ended.
    pub status: Status,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// The files it left in `{out}`, by their paths there.
    pub files: BTreeMap<String, Vec<u8>>,
    /// When it was started: nanoseconds of the lab's `CLOCK_MONOTONIC`, virtual ones if [`Speed::Exact`].
    pub started_ns: u64,
    /// When it was reaped, by the same clock.
    pub ended_ns: u64,
    /// Processor time of the command and of what it waited for.
    pub cpu: Duration,
}

impl Lab {
    /// A lab with the usual limits, which bear a slow and busy host, and no files.
    #[must_use]
    pub fn new(way: Way) -> Self {
        Self {
            way,
            memory_mib: 2048,
            modules: Vec::new(),
            forward_stdin: false,
            emulator_args: Vec::new(),
            allowance: Duration::from_secs(180),
            files: BTreeMap::new(),
        }
    }

    /// Adds a file of the host: in a step's words, `{name}` is its path in the lab.
    pub fn file(&mut self, name: &str, path: &Path) -> &mut Self {
        self.files.insert(name.to_owned(), path.to_owned());
        self
    }

    /// Runs the steps, one after the other. A step that fails is in the report; an error is a lab that could not do
    /// its work.
    pub fn run(&self, ctx: &Ctx, steps: &[Step]) -> Result<Report> {
        self.watch(ctx, steps, &mut |_, _| {})
    }

    /// As [`Lab::run`], and tells `watch` of each event as it comes (under [`Speed::Exact`], at the end).
    pub fn watch(&self, ctx: &Ctx, steps: &[Step], watch: &mut Watch<'_>) -> Result<Report> {
        let start = Instant::now();
        let mut gather = Gather::new(steps);
        let mut stalls = BTreeMap::new();
        let console = loop {
            let first = gather.ended();
            let mut take = |step: u32, event: Event| {
                watch(first + step, &event);
                gather.event(first + step, event);
            };
            let steps = &steps[first as usize..];
            let console = match self.way {
                Way::Native => native::run(self, steps, &mut take).map(|()| String::new()),
                Way::Nested(speed) => nested::run(self, speed, ctx, steps, &mut take),
            };
            let stalls_here: &mut u32 = stalls.entry(gather.ended()).or_default();
            match console {
                Err(error) if error.is::<nested::Stalled>() && *stalls_here < PATIENCE => {
                    *stalls_here += 1;
                    println!("{} {error:#}\nA new lab takes the rest", gather.whereabouts());
                    gather.forget();
                }
                console => break console.with_context(|| gather.whereabouts())?,
            }
        };
        Ok(Report { console, wall: start.elapsed(), ..gather.finish()? })
    }

    /// The plan for the agent, with files where `place` says that they are.
    fn plan(&self, steps: &[Step], place: impl Fn(&str, &Path) -> String) -> Plan {
        let files = self.files.iter().map(|(name, path)| (name.clone(), place(name, path))).collect();
        Plan { files, steps: steps.to_vec(), exact: matches!(self.way, Way::Nested(Speed::Exact { .. })) }
    }
}

/// How often a lab may stall in one step and be started anew: that is no fault of the step.
const PATIENCE: u32 = 2;

/// Told of events: which step, counted from 0, and what happened.
pub type Watch<'a> = dyn FnMut(u32, &Event) + Send + 'a;

/// Takes events: which step, counted from 0, and what happened.
type Take<'a> = dyn FnMut(u32, Event) + Send + 'a;

/// A step that runs `words` and has a minute.
#[must_use]
pub fn step<S: Into<String>>(name: &str, words: impl IntoIterator<Item = S>) -> Step {
    let argv = words.into_iter().map(Into::into).collect();
    Step { name: name.to_owned(), argv, deadline_ms: 60_000, ..Step::default() }
}

/// Makes a report of events.
struct Gather {
    ready_ns: u64,
    steps: Vec<(StepReport, bool)>,
}

impl Gather {
    fn new(steps: &[Step]) -> Self {
        let empty = |step: &Step| StepReport {
            name: step.name.clone(),
            status: Status::NotStarted("the lab ended before".to_owned()),
            stdout: Vec::new(),
            stderr: Vec::new(),
            files: BTreeMap::new(),
            started_ns: 0,
            ended_ns: 0,
            cpu: Duration::ZERO,
        };
        Self { ready_ns: 0, steps: steps.iter().map(|step| (empty(step), false)).collect() }
    }

    fn event(&mut self, step: u32, event: Event) {
        let Some((report, ended)) = self.steps.get_mut(step as usize) else { return };
        match event {
            Event::Ready(now) => self.ready_ns = now,
            Event::Stdout(bytes) => report.stdout.extend(bytes),
            Event::Stderr(bytes) => report.stderr.extend(bytes),
            Event::File(path, bytes) => drop(report.files.insert(path, bytes)),
            Event::End(end) => {
                report.status = end.status;
                report.started_ns = end.started_ns;
                report.ended_ns = end.ended_ns;
                report.cpu = Duration::from_micros(end.cpu_us);
                *ended = true;
            }
            Event::Begin | Event::Alive | Event::Done | Event::Stdin(_) => {}
        }
    }

    /// How many steps have ended.
    fn ended(&self) -> u32 {
        self.steps.iter().take_while(|(_, ended)| *ended).count() as u32
    }

    /// Forgets what the step said that had not ended: it begins anew.
    fn forget(&mut self) {
        if let Some((report, _)) = self.steps.iter_mut().find(|(_, ended)| !ended) {
            report.stdout.clear();
            report.stderr.clear();
            report.files.clear();
        }
    }

    /// Which step ran last, and its last lines.
    fn whereabouts(&self) -> String {
        match self.steps.iter().find(|(_, ended)| !ended) {
            None => "all steps had ended".to_owned(),
            Some((step, _)) => {
                let said = [step.stdout.as_slice(), &step.stderr].concat();
                format!("in step {:?}, which had said:\n{}", step.name, last_lines(&said))
            }
        }
    }

    fn finish(self) -> Result<Report> {
        let left = self.steps.iter().find(|(_, ended)| !ended);
        if let Some((step, _)) = left {
            anyhow::bail!("the lab said that it was done, yet step {:?} did not end", step.name);
        }
        let steps = self.steps.into_iter().map(|(step, _)| step).collect();
        Ok(Report { steps, ready_ns: self.ready_ns, ..Report::default() })
    }
}

/// The last lines of a console, for people.
pub(crate) fn last_lines(bytes: &[u8]) -> String {
    const COUNT: usize = 20;
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(COUNT)..];
    if shown.is_empty() { "  (nothing)".to_owned() } else { format!("  {}", shown.join("\n  ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx(place: &Path) -> Ctx {
        Ctx { root: place.into(), target: place.into(), cache: place.into(), verbose: false }
    }

    #[test]
    fn steps_on_this_host() {
        let place = tempfile::tempdir().unwrap();
        let given = place.path().join("given");
        std::fs::write(&given, "content").unwrap();
        let mut lab = Lab::new(Way::Native);
        lab.file("word", &given);
        let steps = [
            step("first", ["/bin/sh", "-c", "cat {word}; echo trouble >&2; echo kept >{out}/file; exit 9"]),
            step("absent", ["/nowhere/at/all"]),
            step("last", ["/bin/sh", "-c", "ls {out}"]),
        ];
        let report = lab.run(&ctx(place.path()), &steps).unwrap();
        let [first, absent, last] = report.steps.as_slice() else { panic!("three steps") };
        assert_eq!((first.name.as_str(), &first.status), ("first", &Status::Exited(9)));
        assert_eq!((first.stdout.as_slice(), first.stderr.as_slice()), (&b"content"[..], &b"trouble\n"[..]));
        assert_eq!(first.files, BTreeMap::from([("file".to_owned(), b"kept\n".to_vec())]));
        assert!(matches!(absent.status, Status::NotStarted(_)));
        assert_eq!((&last.status, last.stdout.as_slice()), (&Status::Exited(0), &b""[..]));
        assert!(report.ready_ns <= first.started_ns && first.ended_ns <= last.started_ns);
    }

    #[test]
    fn a_broken_lab_says_where_it_was() {
        let mut gather = Gather::new(&[step("one", [""]), step("two", [""])]);
        let end = agent::StepEnd { status: Status::Exited(0), started_ns: 1, ended_ns: 2, cpu_us: 3 };
        gather.event(0, Event::End(end));
        gather.event(1, Event::Stdout(b"\r\nline one\r\nline two\r\n".to_vec()));
        gather.event(7, Event::Stdout(b"no such step".to_vec()));
        assert_eq!(gather.whereabouts(), "in step \"two\", which had said:\n  line one\n  line two");
        assert_eq!(
            gather.finish().unwrap_err().to_string(),
            "the lab said that it was done, yet step \"two\" did not end"
        );
    }
}
