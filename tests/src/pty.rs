//! A terminal that a test sits at.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetattr;

/// Long enough for anything on a slow and busy host.
const DEADLINE: Duration = Duration::from_secs(60);

/// A terminal: the test holds the side of the person who sits at it.
pub struct Terminal {
    person: File,
    program: OwnedFd,
    shown: Vec<u8>,
}

impl Terminal {
    /// A fresh terminal with the kernel's own settings.
    pub fn new() -> Result<Self> {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&person)?;
        unlockpt(&person)?;
        let name = ptsname(&person, Vec::new())?;
        let program = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOCTTY.bits().cast_signed())
            .open(std::ffi::OsStr::from_bytes(name.to_bytes()))?;
        Ok(Self { person: person.into(), program: program.into(), shown: Vec::new() })
    }

    /// Its settings, in a form to compare and to show.
    pub fn settings(&self) -> Result<String> {
        Ok(format!("{:?}", tcgetattr(&self.program)?))
    }

    /// Starts a program whose three standard streams are the terminal.
    pub fn spawn(&self, command: &mut Command) -> Result<Program> {
        let [stdin, stdout, stderr] = [(); 3].map(|()| self.program.try_clone());
        let child = command.stdin(stdin?).stdout(stdout?).stderr(stderr?).spawn();
        Ok(Program(child.with_context(|| format!("cannot run {}", xtask::ctx::show(command)))?))
    }

    /// Types.
    pub fn write(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.person.write_all(keys)?)
    }

    /// Reads until the terminal has shown `text`, after what was waited for before.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.shown.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.shown.drain(..at + text.len());
                return Ok(());
            }
            let shown = || String::from_utf8_lossy(&self.shown).into_owned();
            ensure!(readable(&self.person, deadline)?, "no {text:?} on the terminal, but {:?}", shown());
            match self.person.read(&mut buffer) {
                Ok(len) if len > 0 => self.shown.extend_from_slice(&buffer[..len]),
                _ => bail!("the terminal was closed before {text:?}; it showed {:?}", shown()),
            }
        }
    }
}

/// A program at a terminal; it does not outlive its owner.
pub struct Program(Child);

impl Program {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        ensure!(readable(&pidfd, Instant::now() + DEADLINE)?, "the program at the terminal does not end");
        Ok(self.0.wait()?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    fn shows_what_a_program_does_to_it() {
        let mut terminal = Terminal::new().expect("a terminal");
        let before = terminal.settings().expect("settings");
        let script = "stty raw -echo; echo ready; read line; stty sane; exit 5";
        let mut program = terminal.spawn(Command::new("/bin/sh").args(["-c", script])).expect("a shell");
        terminal.wait_for("ready").expect("ready");
        assert_ne!(terminal.settings().expect("settings"), before);
        terminal.write(b"x\n").expect("typed");
        assert_eq!(program.wait().expect("an end").code(), Some(5));
    }
}
