//! Runs steps.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

use crate::hung;
use crate::plan::{Act, Event, Plan, Reaction, Status, Stdin, Step, StepEnd};

/// Takes events: which step (counted from 0), and what happened. Called from several threads.
pub type Sink<'a> = dyn Fn(u32, Event) + Sync + 'a;

/// The standard input of the step that runs now, for whoever feeds it from outside.
pub type Input = Arc<Mutex<Option<ChildStdin>>>;

/// How often it is said that a command goes on.
const ALIVE: Duration = Duration::from_secs(5);

/// Does all steps of `plan`, each with a folder of its own in `work`, and tells `sink` what happens. A step that
/// fails does not keep the next from running.
pub fn run(plan: &Plan, work: &Path, input: &Input, sink: &Sink<'_>) -> io::Result<()> {
    sink(0, Event::Ready(monotonic_ns()));
    for (index, step) in (0..).zip(&plan.steps) {
        let out = work.join(format!("out-{index}"));
        fs::create_dir_all(&out)?;
        let held = Mutex::new(Vec::new());
        let tell = |event| if plan.exact { lock(&held).push(event) } else { sink(index, event) };
        let end = run_step(plan, step, &out, input, &tell)?;
        held.into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_iter()
            .for_each(|event| sink(index, event));
        for (path, bytes) in files(&out, &out)? {
            sink(index, Event::File(path, bytes));
        }
        fs::remove_dir_all(&out)?;
        sink(index, Event::End(end));
    }
    sink(0, Event::Done);
    Ok(())
}

fn run_step(
    plan: &Plan,
    step: &Step,
    out: &Path,
    input: &Input,
    sink: &(dyn Fn(Event) + Sync),
) -> io::Result<StepEnd> {
    if plan.exact {
        wait_for_tick();
    }
    let started_ns = monotonic_ns();
    let words: Vec<String> = step.argv.iter().map(|word| fill_in(word, plan, out, started_ns)).collect();
    let spawned = spawn(step, &words, plan, out, started_ns);
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let status = Status::NotStarted(format!("{}: {error}", words.join(" ")));
            return Ok(StepEnd { status, started_ns, ended_ns: monotonic_ns(), cpu_us: 0 });
        }
    };
    *lock(input) = child.stdin.take();
    sink(Event::Begin);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        if let Some(stdout) = stdout {
            scope.spawn(|| watch_stdout(stdout, &step.reactions, input, pid_of(&child), sink));
        }
        if let Some(stderr) = stderr {
            scope.spawn(|| pump(stderr, |bytes| sink(Event::Stderr(bytes.to_vec()))));
        }
        let waited = wait(&child, plan.exact, Duration::from_millis(step.deadline_ms), sink);
        let ended_ns = monotonic_ns();
        // What the command left behind in its group would keep the pipes open.
        let _ = kill_process_group(pid_of(&child), Signal::KILL);
        close(input);
        let (status, cpu_us) = waited?;
        Ok(StepEnd { status, started_ns, ended_ns, cpu_us })
    })
}

fn spawn(step: &Step, words: &[String], plan: &Plan, out: &Path, origin: u64) -> io::Result<Child> {
    let (program, args) = words.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let stdin = match step.stdin {
        Stdin::Empty => Stdio::null(),
        Stdin::Open => Stdio::piped(),
    };
    Command::new(program)
        .args(args)
        .envs(step.env.iter().map(|(key, value)| (key, fill_in(value, plan, out, origin))))
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Replaces `{out}`, `{origin}` and the names of files; other braces stay as they are.
fn fill_in(word: &str, plan: &Plan, out: &Path, origin: u64) -> String {
    let mut filled = word.replace("{out}", &out.to_string_lossy()).replace("{origin}", &origin.to_string());
    for (name, path) in &plan.files {
        filled = filled.replace(&format!("{{{name}}}"), path);
    }
    filled
}

/// Waits until the child has ended, or kills its process group at the deadline. Returns how it ended and its
/// processor time in microseconds. Unless time is exact, where each look would be in it, `sink` hears that the child is
/// there, and at the deadline what its threads do.
fn wait(
    child: &Child,
    exact: bool,
    deadline: Duration,
    sink: &(dyn Fn(Event) + Sync),
) -> io::Result<(Status, u64)> {
    let pidfd = pidfd_open(pid_of(child), PidfdFlags::empty())?;
    let mut left = deadline;
    let ended = loop {
        let timeout = if exact { left } else { left.min(ALIVE) };
        left -= timeout;
        let timeout =
            Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        if retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)))? > 0 {
            break true;
        }
        if left.is_zero() {
            break false;
        }
        sink(Event::Alive);
    };
    if !ended {
        if !exact {
            sink(Event::Stderr(hung::watch(pid_of(child)).into_bytes()));
        }
        let _ = kill_process_group(pid_of(child), Signal::KILL);
    }
    let (raw, cpu_us) = reap(child)?;
    let status = if ended { decode(raw) } else { Status::TimedOut };
    Ok((status, cpu_us))
}

fn decode(raw: libc::c_int) -> Status {
    if libc::WIFSIGNALED(raw) {
        Status::Signaled(libc::WTERMSIG(raw))
    } else {
        Status::Exited(u8::try_from(libc::WEXITSTATUS(raw)).unwrap_or(u8::MAX))
    }
}

#[allow(unsafe_code, reason = "wait4 is the only way to a child's status and its processor time together")]
fn reap(child: &Child) -> io::Result<(libc::c_int, u64)> {
    let pid = pid_of(child).as_raw_nonzero().get();
    let mut status = 0;
    // SAFETY: all fields of rusage are integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live, writable values of the right types, and nothing else waits for the child.
    if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } != pid {
        return Err(io::Error::last_os_error());
    }
    let us = [usage.ru_utime, usage.ru_stime].map(|time| time.tv_sec * 1_000_000 + time.tv_usec);
    Ok((status, us.iter().sum::<i64>().cast_unsigned()))
}

/// Passes standard output on, and reacts to what is in it.
fn watch_stdout(
    stdout: impl Read,
    reactions: &[Reaction],
    input: &Input,
    pid: Pid,
    sink: &(dyn Fn(Event) + Sync),
) {
    let mut pending = reactions.iter();
    let mut next = pending.next();
    let mut unmatched = Vec::new();
    pump(stdout, |bytes| {
        sink(Event::Stdout(bytes.to_vec()));
        if next.is_some() {
            unmatched.extend_from_slice(bytes);
        }
        while let Some(reaction) = next {
            let Some(end) = find_end(&unmatched, reaction.after.as_bytes()) else { break };
            unmatched.drain(..end);
            react(&reaction.act, input, pid);
            next = pending.next();
        }
    });
}

fn react(act: &Act, input: &Input, pid: Pid) {
    match act {
        Act::Write(bytes) => feed(input, bytes),
        Act::Close => close(input),
        Act::Signal(number) => {
            if let Some(signal) = Signal::from_named_raw(*number) {
                // It may have ended meanwhile; the step's end says so.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// Writes to the standard input of the step that runs now, if there is one that reads.
pub fn feed(input: &Input, bytes: &[u8]) {
    let mut stdin = lock(input);
    if let Some(pipe) = stdin.as_mut()
        && pipe.write_all(bytes).and_then(|()| pipe.flush()).is_err()
    {
        *stdin = None;
    }
}

/// Closes the standard input of the step that runs now.
pub fn close(input: &Input) {
    *lock(input) = None;
}

/// Index of the first byte after the first occurrence of `needle`.
fn find_end(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|window| window == needle).map(|start| start + needle.len())
}

/// Reads to the end, in pieces as they come.
fn pump(mut from: impl Read, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 8192];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        each(&buffer[..len]);
    }
}

/// All regular files below `folder`, in order, with their paths relative to `root`.
fn files(root: &Path, folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            found.extend(files(root, &path)?);
        } else if kind.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.push((name, fs::read(&path)?));
        }
    }
    Ok(found)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins until the kernel's clock ticks, so that what is started next has all of the time to the next tick for itself.
fn wait_for_tick() {
    let before = clock_gettime(ClockId::MonotonicCoarse);
    while clock_gettime(ClockId::MonotonicCoarse) == before {}
}

/// `CLOCK_MONOTONIC` in nanoseconds.
// By its calls, profiles find where a step begins and ends: it has to be there.
#[inline(never)]
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_one(step: Step) -> Vec<Event> {
        let work = tempfile::tempdir().unwrap();
        let events = Mutex::new(Vec::new());
        let plan =
            Plan { files: [("sh".to_owned(), "/bin/sh".to_owned())].into(), steps: vec![step], exact: true };
        run(&plan, work.path(), &Input::default(), &|_, event| events.lock().unwrap().push(event)).unwrap();
        events.into_inner().unwrap()
    }

    fn sh(script: &str) -> Step {
        let argv = ["{sh}", "-c", script].map(str::to_owned).to_vec();
        Step { argv, deadline_ms: 60_000, ..Step::default() }
    }

    fn status(events: &[Event]) -> Status {
        let mut ends = events.iter().filter_map(|event| match event {
            Event::End(end) => Some(end.status.clone()),
            _ => None,
        });
        ends.next_back().unwrap()
    }

    fn stdout(events: &[Event]) -> String {
        let bytes = events.iter().filter_map(|event| match event {
            Event::Stdout(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        String::from_utf8(bytes.collect::<Vec<_>>().concat()).unwrap()
    }

    #[test]
    fn tells_how_a_command_ended() {
        assert_eq!(status(&run_one(sh("exit 7"))), Status::Exited(7));
        assert_eq!(status(&run_one(sh("kill -TERM $$"))), Status::Signaled(15));
        let absent = Step { argv: vec!["/nowhere".to_owned()], deadline_ms: 1000, ..Step::default() };
        assert!(matches!(status(&run_one(absent)), Status::NotStarted(why) if why.contains("/nowhere")));
    }

    #[test]
    fn kills_the_whole_group_at_the_deadline() {
        let step = Step { deadline_ms: 50, ..sh("sleep 1000 & sleep 1000") };
        assert_eq!(status(&run_one(step)), Status::TimedOut);
    }

    #[test]
    fn says_what_is_done_at_the_deadline() {
        let step = Step { deadline_ms: 200, ..sh("sleep 1000 & while :; do :; done") };
        let said = Mutex::new(Vec::new());
        let plan =
            Plan { files: [("sh".to_owned(), "/bin/sh".to_owned())].into(), steps: vec![step], exact: false };
        let work = tempfile::tempdir().unwrap();
        run(&plan, work.path(), &Input::default(), &|_, event| {
            if let Event::Stderr(bytes) = event {
                said.lock().unwrap().extend(bytes);
            }
        })
        .unwrap();
        let said = String::from_utf8(said.into_inner().unwrap()).unwrap();
        let line =
            |name: &str| said.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{said}"));
        assert!(line(" sleep (").contains(" S, 0 ms busy"), "{said}");
        assert!(line(" sh (").contains(" R, ") && !line(" sh (").contains(" 0 ms"), "{said}");
    }

    #[test]
    fn returns_the_files_that_a_command_leaves() {
        let events = run_one(sh("mkdir {out}/d; printf one >{out}/a; printf two >{out}/d/b"));
        let files: Vec<_> = events.iter().filter(|event| matches!(event, Event::File(..))).collect();
        assert_eq!(
            files,
            [&Event::File("a".into(), b"one".into()), &Event::File("d/b".into(), b"two".into())]
        );
    }

    #[test]
    fn reacts_in_order() {
        let say = |after: &str, act| Reaction { after: after.to_owned(), act };
        let step = Step {
            stdin: Stdin::Open,
            reactions: vec![
                say("name?", Act::Write(b"world\n".to_vec())),
                say("hello world", Act::Close),
                say("end", Act::Signal(libc::SIGUSR1)),
            ],
            ..sh(
                "trap 'exit 3' USR1; echo name?; read n; echo hello $n; read n || echo end; while :; do sleep 0.01; done",
            )
        };
        let events = run_one(step);
        assert_eq!(
            (stdout(&events).as_str(), status(&events)),
            ("name?\nhello world\nend\n", Status::Exited(3))
        );
    }

    #[test]
    fn origin_is_the_time_of_the_start() {
        let events = run_one(sh("echo {origin} {other}"));
        let started = events.iter().find_map(|event| match event {
            Event::End(end) => Some(end.started_ns),
            _ => None,
        });
        assert_eq!(stdout(&events), format!("{} {{other}}\n", started.unwrap()));
    }
}
