//! Guests under QEMU, whose processor is emulated (TCG): the same everywhere, KVM or not.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abi::ports;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::{Speed, last_lines};
use crate::apt;
use crate::ctx::Ctx;
use crate::debs;

const PROGRAM: &str = "qemu-system-x86_64";
/// Debian's package of it.
const PACKAGE: &str = "qemu-system-x86";

/// QEMU's program, installed if it is missing and that is possible.
pub fn find(ctx: &Ctx) -> Result<PathBuf> {
    apt::tool(ctx, PROGRAM, PACKAGE)
}

/// From this version on QEMU executes no stale code (see [`several`]).
const SOUND: [u32; 2] = [8, 1];

/// Where Debian 12 has such a version.
const BACKPORTS: &str = "bookworm-backports";

/// QEMU for a machine with several processors, had if it is missing and that is possible.
///
/// Versions before 8.1 can translate code while another processor rewrites it, and from then on execute what they read
/// (mended by QEMU's commit deba78709ae8, "accel/tcg: Always lock pages before translation"). Linux rewrites branches by
/// way of `INT3`: its processors then meet one that has been gone for long, again and again. Debian 12's is one of those,
/// so a newer one is unpacked beside it, which uses the ROMs and libraries of the one that is installed. Where there is
/// none, the installed one has to do.
pub fn several(ctx: &Ctx) -> Result<Command> {
    let installed = find(ctx)?;
    let said = ctx.read(Command::new(&installed).arg("--version"))?;
    if version(&said).is_some_and(|version| version >= SOUND) {
        return Ok(Command::new(installed));
    }
    let package = match debs::get_from(ctx, BACKPORTS, PACKAGE) {
        Ok(package) => package,
        Err(error) => {
            eprintln!("labs have the QEMU that is installed, and may stall: no newer one: {error:#}");
            return Ok(Command::new(installed));
        }
    };
    let mut qemu = Command::new(package.path.join("usr/bin").join(PROGRAM));
    qemu.args(["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]);
    Ok(qemu)
}

/// In `QEMU emulator version 7.2.22 (…`.
fn version(said: &str) -> Option<[u32; 2]> {
    let (_, version) = said.lines().next()?.split_once(" version ")?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??])
}

/// Where the first serial port of a [`Machine`] reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nowhere.
    None,
    /// This process's standard input. If that is a terminal, Ctrl-A x ends the machine.
    Terminal,
}

/// A machine of QEMU's. It has no devices but those that [`Machine::name`] brings and those in
/// [`Machine::args`].
#[derive(Clone, Debug)]
pub struct Machine {
    /// QEMU's name for it, with options: `q35`, `pc`, `microvm,rtc=on`.
    pub name: String,
    /// Its processor, with options; if absent, all that QEMU can emulate.
    pub cpu: Option<String>,
    /// Processors; always one under [`Speed::Exact`].
    pub cpus: u8,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// How time is counted.
    pub speed: Speed,
    /// A ROM in place of QEMU's own.
    pub firmware: Option<PathBuf>,
    /// `bzImage` or PVH ELF.
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Further arguments.
    pub args: Vec<String>,
}

impl Machine {
    /// A machine that boots a kernel.
    #[must_use]
    pub fn new(name: &str, kernel: PathBuf, initrd: PathBuf, cmdline: &str) -> Self {
        Self { kernel: Some(kernel), initrd: Some(initrd), cmdline: cmdline.to_owned(), ..Self::bare(name) }
    }

    /// A machine that starts its firmware, and no more.
    #[must_use]
    pub fn with_firmware(name: &str, rom: PathBuf) -> Self {
        Self { firmware: Some(rom), ..Self::bare(name) }
    }

    fn bare(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cpu: None,
            cpus: 1,
            memory_mib: 512,
            speed: Speed::Functional,
            firmware: None,
            kernel: None,
            initrd: None,
            cmdline: String::new(),
            args: Vec::new(),
        }
    }

    /// QEMU with the arguments for it; serial ports and other devices are the caller's to add. QEMU is installed
    /// if it is missing and that is possible.
    pub fn command(&self, ctx: &Ctx) -> Result<Command> {
        let mut qemu = match self.speed {
            Speed::Functional if self.cpus > 1 => several(ctx)?,
            _ => Command::new(find(ctx)?),
        };
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        qemu.args(["-M", &self.name, "-m", &format!("{}M", self.memory_mib)]);
        let mut cmdline = self.cmdline.clone();
        match self.speed {
            Speed::Functional => {
                qemu.args(["-accel", "tcg,thread=multi", "-smp", &self.cpus.to_string()]);
                qemu.args(["-cpu", self.cpu.as_deref().unwrap_or("max")]);
            }
            Speed::Exact { seed } => {
                // Two CPUs get stuck; a repeated string instruction would be charged for each byte.
                qemu.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]);
                qemu.args(["-cpu", self.cpu.as_deref().unwrap_or("max,-erms,-fsrm")]);
                qemu.args(["-seed", &seed.to_string(), "-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
                cmdline.push_str(" nokaslr norandmaps");
            }
        }
        let files = [("-bios", &self.firmware), ("-kernel", &self.kernel), ("-initrd", &self.initrd)];
        for (flag, path) in files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?))) {
            qemu.arg(flag).arg(path);
        }
        if self.kernel.is_some() {
            qemu.args(["-append", &cmdline]);
        }
        qemu.args(&self.args);
        Ok(qemu)
    }

    /// Boots it and waits until it ends: by itself, or because `watch`, which gets what comes out of its first
    /// serial port, returns false. The ports at which guests of `jiffy` leave marks
    /// and their status are there.
    pub fn boot(
        &self,
        ctx: &Ctx,
        input: Input,
        deadline: Duration,
        mut watch: impl FnMut(&[u8]) -> bool,
    ) -> Result<Ended> {
        let start = Instant::now();
        let place = tempfile::tempdir()?;
        let (marks, status) = (place.path().join("marks"), place.path().join("status"));
        let mut command = self.command(ctx)?;
        match input {
            Input::None => command
                .args(["-chardev", "stdio,id=console", "-serial", "chardev:console"])
                .stdin(Stdio::null()),
            Input::Terminal => command.args(["-serial", "mon:stdio"]).stdin(Stdio::inherit()),
        };
        for (name, port, path) in
            [("marks", ports::TIMELINE, &marks), ("status", ports::EXIT_STATUS, &status)]
        {
            command.arg("-chardev").arg(format!("file,id={name},path={}", path.display()));
            command.arg("-device").arg(format!("isa-debugcon,iobase={port:#x},chardev={name}"));
        }
        let mut qemu = Process::spawn(command.stdout(Stdio::piped()))?;
        let mut stdout = qemu.stdout()?;
        let mut console = Vec::new();
        let mut buffer = [0; 8192];
        let mut stopped = false;
        while !stopped {
            if !readable(&stdout, start + deadline)? {
                bail!(
                    "the guest did not end within {deadline:?}; its console ended with:\n{}",
                    last_lines(&console)
                );
            }
            let len = stdout.read(&mut buffer)?;
            if len == 0 {
                break;
            }
            console.extend_from_slice(&buffer[..len]);
            stopped = !watch(&buffer[..len]);
        }
        let exit = if stopped { None } else { Some(qemu.wait(start + deadline)?) };
        let said = qemu.stderr();
        if exit.is_some_and(|exit| exit.code() == Some(1)) && console.is_empty() {
            bail!("QEMU did not start:\n{}", last_lines(&said));
        }
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Ended {
            console,
            marks: read(&marks)?,
            status: read(&status)?.last().copied(),
            exit,
            wall: start.elapsed(),
        })
    }
}

/// How a guest under QEMU ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What came out of its first serial port.
    pub console: Vec<u8>,
    /// What it wrote to the timeline's port.
    pub marks: Vec<u8>,
    /// The last byte that it wrote to the exit status's port.
    pub status: Option<u8>,
    /// How QEMU ended, if it did by itself.
    pub exit: Option<ExitStatus>,
    /// Wall time.
    pub wall: Duration,
}

/// A process that does not outlive its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Process {
    /// Starts it; its standard error is kept.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let shown = crate::ctx::show(command);
        die_with_parent(command);
        let mut child =
            command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot run {shown}"))?;
        let stderr = child.stderr.take().map(|stderr| thread::spawn(move || collect(stderr)));
        Ok(Self { child, stderr })
    }

    /// Its standard output; can be taken once.
    pub fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("standard output is not a pipe")
    }

    /// Its standard input; can be taken once.
    pub fn stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().context("standard input is not a pipe")
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, deadline: Instant) -> Result<ExitStatus> {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        if !readable(&pidfd, deadline)? {
            bail!("no end by the deadline");
        }
        Ok(self.child.wait()?)
    }

    /// Ends it, and returns what it wrote to standard error.
    pub fn stderr(&mut self) -> Vec<u8> {
        self.kill();
        self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    fn kill(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Has the kernel end the process when the thread that starts it is gone, however that came.
#[allow(unsafe_code, reason = "nothing safe runs between fork and exec")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
}

fn collect(mut stderr: ChildStderr) -> Vec<u8> {
    let mut said = Vec::new();
    // What was read before a failure is worth showing.
    let _ = stderr.read_to_end(&mut said);
    said
}

/// Waits until there is something to read, or an end; false at the deadline.
fn readable(fd: &impl std::os::fd::AsFd, deadline: Instant) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    Ok(retry_on_intr(|| poll(&mut fds, Some(&timeout)))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let of = |name: &str| version(&format!("QEMU emulator version {name}\nCopyright"));
        assert_eq!(of("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"), Some([7, 2]));
        assert!(of("10.0.2 (Debian)") >= Some(SOUND) && of("8.0.50") < Some(SOUND) && of("x") < Some(SOUND));
        assert_eq!(version("qemu: no such option"), None);
    }
}
