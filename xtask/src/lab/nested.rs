//! Steps in a Linux with KVM of its own, under QEMU.
//!
//! Its kernel is Debian's, its PID 1 is `jiffy-init`, which loads KVM's modules and runs the agent. All files are in
//! its initramfs, since a disk would make virtual time vary. The first serial port is its console; on the second one
//! the agent reports.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use abi::init_config::Directive;
use agent::frame::{self, Frame};
use agent::{Event, Step};
use anyhow::{Context, Result, anyhow};

use super::qemu::{Machine, Process};
use super::{Lab, Speed, Take, last_lines};
use crate::cpio::Cpio;
use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::{built, initramfs};

/// A lab in which a step runs says every few seconds that it does. One that is silent for twice this has stalled: twice,
/// since the first may have passed while this process was stopped.
const SILENCE: Duration = Duration::from_secs(40);
/// Where things are in the lab.
const PLAN: &str = "/lab/plan";
const AGENT: &str = "/lab/agent";
const WORK: &str = "/tmp";
const CHANNEL: &str = "/dev/ttyS1";
/// What the lab's kernel is told where figures do not count.
///
/// Two processors of QEMU's emulation have been seen to stall when KVM in the lab maps guests by huge pages; one has not,
/// and figures are to have them. On a busy host the kernel would find that the timer does not tick, and give up. Two
/// thirds of its boot would be tests of its cryptography. Emulated processors share one TSC, which the kernel would not
/// believe; each look at its clock would then be one at a timer's registers.
const FUNCTIONAL: &str =
    "console=ttyS0 quiet panic=-1 transparent_hugepage=madvise no_timer_check cryptomgr.notests tsc=reliable";

/// A lab in which nothing moves any more: all its processors spin, and its own clock with them. Whatever runs in the lab,
/// emulation has done that now and then (see [`qemu`](super::qemu)).
#[derive(Debug)]
pub(super) struct Stalled(Duration);

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the lab has stalled: nothing was heard of it for {:?}", self.0)
    }
}

impl std::error::Error for Stalled {}

/// Runs the steps and returns what the lab's console showed. The error is [`Stalled`] where it is worth another try.
pub(super) fn run(lab: &Lab, speed: Speed, ctx: &Ctx, steps: &[Step], take: &mut Take<'_>) -> Result<String> {
    let place = tempfile::tempdir()?;
    let kernel = Kernel::debian(ctx)?;
    let initrd = place.path().join("lab.cpio");
    fs::write(&initrd, archive(lab, ctx, &kernel, steps)?.build()?)?;
    let console = place.path().join("console");
    let reports = place.path().join("reports");
    let mut machine = match speed {
        Speed::Functional => {
            // Unpacked on the host, once: in the lab that takes an eighth of its boot.
            let mut machine = Machine::new("q35", kernel.vmlinux(ctx)?, initrd, FUNCTIONAL);
            // A table less to walk, in the lab's kernel and in guests: emulation does that for every page it meets. And
            // kernels that are not told that copies by bytes are fast make them by eight at a time, as emulation does.
            machine.cpu = Some("max,-la57,-erms,-fsrm".to_owned());
            machine
        }
        Speed::Exact { .. } => Machine::new("q35", kernel.image, initrd, "console=ttyS0 quiet panic=-1"),
    };
    machine.memory_mib = lab.memory_mib;
    machine.speed = speed;
    machine.cpus = 2;
    machine.args.clone_from(&lab.emulator_args);
    let mut command = machine.command(ctx)?;
    command.arg("-serial").arg(format!("file:{}", console.display()));
    match speed {
        Speed::Functional => {
            command.args(["-chardev", "stdio,id=reports,signal=off", "-serial", "chardev:reports"])
        }
        // A pipe's reader would have a say in when bytes leave, and so in virtual time.
        Speed::Exact { .. } => command.arg("-serial").arg(format!("file:{}", reports.display())),
    };
    let limits = steps.iter().map(|step| Duration::from_millis(step.deadline_ms));
    let deadline = Instant::now() + lab.allowance + limits.sum();
    let mut qemu = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let stdout = qemu.stdout()?;
    let input = qemu.stdin()?;
    let input = if lab.forward_stdin { Some(input) } else { None };
    let ended = match speed {
        Speed::Functional => {
            follow(stdout, input, lab.allowance, take).and_then(|done| qemu.wait(deadline).map(|_| done))
        }
        Speed::Exact { .. } => {
            let ended = qemu.wait(deadline).map(|_| ());
            let file = File::open(&reports).context("QEMU left no reports");
            // What there is of a lab that did not end tells which step it was in.
            let replayed = file.and_then(|file| replay(BufReader::new(file), take));
            ended.and(replayed)
        }
    };
    let shown = fs::read(&console).unwrap_or_default();
    let problem = match ended {
        Ok(true) => return Ok(String::from_utf8_lossy(&shown).into_owned()),
        Ok(false) => anyhow!("the lab ended before its steps did"),
        Err(error) => error,
    };
    let stalled = problem.downcast_ref().map(|&Stalled(after)| Stalled(after));
    let mut problem = format!("{problem:#}; the lab's console ended with:\n{}", last_lines(&shown));
    let said = qemu.stderr();
    if !said.is_empty() {
        problem = format!("{problem}\nQEMU said:\n{}", last_lines(&said));
    }
    Err(stalled.map_or_else(
        || anyhow!(problem.clone()),
        |stalled| anyhow::Error::new(stalled).context(problem.clone()),
    ))
}

/// All that is in the lab.
fn archive(lab: &Lab, ctx: &Ctx, kernel: &Kernel, steps: &[Step]) -> Result<Cpio> {
    let modules: Vec<&str> =
        std::iter::once("kvm_amd").chain(lab.modules.iter().map(String::as_str)).collect();
    let mut config = vec![Directive::Hostname("lab")];
    config.extend(modules.iter().map(|&name| Directive::Module { name, parameters: "" }));
    config.push(Directive::Exec(AGENT));
    config.extend([PLAN, WORK, CHANNEL].map(Directive::Arg));
    let mut cpio = initramfs::with_init(built::INIT.read(ctx)?, &config)?;
    initramfs::add_modules(&mut cpio, kernel, &modules)?;
    initramfs::add_busybox(&mut cpio, ctx)?;
    let agent = built::agent(ctx);
    cpio.program(AGENT, fs::read(&agent).with_context(|| format!("cannot read {}", agent.display()))?);
    let place = |name: &str| format!("/lab/files/{name}");
    for (name, path) in &lab.files {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        cpio.program(&place(name), data);
    }
    let plan = lab.plan(steps, |name, _| place(name));
    cpio.file(PLAN, postcard::to_stdvec(&plan)?);
    Ok(cpio)
}

/// Takes reports as they come, until the plan is done; false if they end before. The first may come after `start`. When
/// the first step has begun, `input` is fed.
fn follow(
    from: impl Read + Send + 'static,
    mut input: Option<ChildStdin>,
    start: Duration,
    take: &mut Take<'_>,
) -> Result<bool> {
    let mut silence = start / 2;
    let mut silent = false;
    let (sender, reports) = channel();
    // Ends with QEMU, when its end of the pipe is closed.
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        while let Some(report) = frame::read(&mut from).transpose() {
            let broken = report.is_err();
            if sender.send(report).is_err() || broken {
                return;
            }
        }
    });
    loop {
        match reports.recv_timeout(silence) {
            Ok(report) => {
                (silence, silent) = (SILENCE, false);
                let Frame { step, event } = report.context("report of the lab")?;
                let done = event == Event::Done;
                if event == Event::Begin
                    && let Some(to) = input.take()
                {
                    // Stays behind in a read when the lab ends; there is nothing it could do then.
                    thread::spawn(move || forward(step, to));
                }
                take(step, event);
                if done {
                    return Ok(true);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
            Err(RecvTimeoutError::Timeout) if silent => return Err(Stalled(2 * silence).into()),
            Err(RecvTimeoutError::Timeout) => silent = true,
        }
    }
}

/// Passes standard input on to a step, up to its end.
fn forward(step: u32, mut to: ChildStdin) -> io::Result<()> {
    // Small enough for the buffer of the lab's serial port, which has no flow control.
    let mut buffer = [0; 512];
    loop {
        let len = io::stdin().read(&mut buffer)?;
        frame::write(&mut to, &Frame { step, event: Event::Stdin(buffer[..len].to_vec()) })?;
        if len == 0 {
            return Ok(());
        }
    }
}

/// Takes the reports of a lab that has ended; false if they end before the plan is done.
fn replay(mut from: impl Read, take: &mut Take<'_>) -> Result<bool> {
    while let Some(Frame { step, event }) = frame::read(&mut from).context("report of the lab")? {
        let done = event == Event::Done;
        take(step, event);
        if done {
            return Ok(true);
        }
    }
    Ok(false)
}
