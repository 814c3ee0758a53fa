//! The one command that the VM is for.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general::SIGCHLD;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, chdir, getpid, ioctl_tiocsctty, setpgid, setsid, wait};
use rustix::termios::tcsetpgrp;

use crate::console::{STDIN, say};
use crate::error::{Error, Reason};
use crate::power::{CANNOT_EXECUTE, KILLED_BY_SIGNAL, NOT_FOUND};
use crate::sys::{self, Fork, Pointers, Signals};

const DEFAULT_PATH: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command, its environment and working directory.
pub struct Workload<'a> {
    /// The program and its arguments.
    pub command: Vec<&'a CStr>,
    /// `NAME=VALUE`.
    pub environment: Vec<&'a CStr>,
    /// Absolute.
    pub cwd: &'a CStr,
}

/// Puts `ours` over `inherited`, and a `PATH` under both.
pub fn environment<'a>(
    inherited: impl Iterator<Item = &'a CStr>,
    ours: impl Iterator<Item = &'a CStr>,
) -> Vec<&'a CStr> {
    let mut merged: Vec<&CStr> = Vec::new();
    for variable in core::iter::once(DEFAULT_PATH).chain(inherited).chain(ours) {
        merged.retain(|other| name(other) != name(variable));
        merged.push(variable);
    }
    merged
}

fn name(variable: &CStr) -> &[u8] {
    variable.to_bytes().split(|&byte| byte == b'=').next().unwrap_or_default()
}

impl Workload<'_> {
    /// Runs the command to its end, with the console as its controlling terminal. Meanwhile reaps every process
    /// that is left to init and forwards every signal that init gets. Gives the command's exit status.
    ///
    /// All signals must be blocked.
    pub fn run(&self) -> Result<u8, Error> {
        chdir(self.cwd).map_err(Error::system("cwd", self.cwd.to_string_lossy()))?;
        // The session is init's: when the leader of a session ends, the kernel discards what it has written and the
        // terminal has not sent yet. These two fail without a terminal, which a workload need not have.
        let _ = setsid();
        let _ = ioctl_tiocsctty(STDIN);
        let workload = match sys::fork().map_err(Error::system("fork", ""))? {
            Fork::Child => {
                to_foreground();
                self.become_command()
            }
            Fork::Parent(pid) => pid,
        };
        loop {
            match sys::wait_for_signal(&Signals::ALL).map_err(Error::system("wait for a signal", ""))? {
                signal if signal == SIGCHLD.cast_signed() => {
                    if let Some(status) = reap(workload) {
                        return Ok(status);
                    }
                }
                // It may have ended just now.
                signal => drop(sys::kill(workload, signal)),
            }
        }
    }

    fn become_command(&self) -> ! {
        let _ = sys::block_signals(&Signals::NONE);
        let (status, errno) = self.exec();
        let command = self.command.first().copied().unwrap_or_default().to_string_lossy();
        match errno {
            Errno::NOENT if status == CANNOT_EXECUTE => {
                say(format_args!("exec {command}: the interpreter or loader that it names is not there"));
            }
            Errno::NOENT => say(format_args!("exec {command}: not found")),
            errno => say(format_args!("exec {command}: {}", Reason(errno))),
        }
        sys::exit(status)
    }

    /// Comes back only if no candidate could be executed, with the status that says so and the reason.
    fn exec(&self) -> (u8, Errno) {
        let args: Pointers<'_> = self.command.iter().copied().collect();
        let environment: Pointers<'_> = self.environment.iter().copied().collect();
        let mut failure = (NOT_FOUND, Errno::NOENT);
        for path in self.candidates() {
            match sys::execve(&path, &args, &environment) {
                Errno::NOENT if access(&*path, Access::EXISTS).is_err() => {}
                Errno::NOTDIR => {}
                errno => failure = (CANNOT_EXECUTE, errno),
            }
        }
        failure
    }

    /// Where the command may be: its own path, or its name in each folder of `PATH`.
    fn candidates(&self) -> Vec<CString> {
        let Some(command) = self.command.first().copied() else { return Vec::new() };
        if command.to_bytes().contains(&b'/') || command.is_empty() {
            return [command.into()].into();
        }
        let path = self.environment.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
        path.unwrap_or_default()
            .split(|&byte| byte == b':')
            .map(|folder| if folder.is_empty() { b".".as_slice() } else { folder })
            .filter_map(|folder| CString::new([folder, b"/", command.to_bytes()].concat()).ok())
            .collect()
    }
}

/// Makes this process a group of its own, the one that gets what is typed at the terminal. SIGTTOU must be blocked.
fn to_foreground() {
    // The first never fails for a fresh child, the second only without a terminal.
    let _ = setpgid(None, None);
    let _ = tcsetpgrp(STDIN, getpid());
}

/// Reaps all that have ended; the exit status of `workload` if it is among them.
fn reap(workload: Pid) -> Option<u8> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == workload {
            ended = Some(exit_status(status));
        }
    }
    ended
}

/// As a shell would put it.
fn exit_status(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => status as u8,
        (None, signal) => KILLED_BY_SIGNAL | signal.unwrap_or(0) as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_replace_earlier_ones() {
        let kernels = [c"HOME=/", c"TERM=linux", c"FOO=1"];
        let ours = [c"TERM=vt220", c"BAR=a=b", c"FOO="];
        let merged = environment(kernels.into_iter(), ours.into_iter());
        assert_eq!(merged, [DEFAULT_PATH, c"HOME=/", c"TERM=vt220", c"BAR=a=b", c"FOO="]);
        assert_eq!(environment([].into_iter(), [c"PATH=/x"].into_iter()), [c"PATH=/x"]);
    }

    fn workload<'a>(command: &'a CStr, environment: &[&'a CStr]) -> Workload<'a> {
        Workload { command: [command].into(), environment: environment.into(), cwd: c"/" }
    }

    #[test]
    fn commands_without_a_slash_are_looked_up() {
        let cases: [(&CStr, &CStr, &[&CStr]); 5] = [
            (c"ls", c"PATH=/bin:/usr/bin", &[c"/bin/ls", c"/usr/bin/ls"]),
            (c"ls", c"PATH=:/bin", &[c"./ls", c"/bin/ls"]),
            (c"./ls", c"PATH=/bin", &[c"./ls"]),
            (c"/bin/ls", c"PATH=/x", &[c"/bin/ls"]),
            (c"", c"PATH=/bin", &[c""]),
        ];
        for (command, path, expected) in cases {
            let candidates = workload(command, &[path]).candidates();
            assert!(
                candidates.iter().map(|path| &**path).eq(expected.iter().copied()),
                "{command:?} {path:?}"
            );
        }
    }

    #[test]
    fn failures_to_execute_have_their_status() {
        let cases: [(&CStr, (u8, Errno)); 4] = [
            (c"/no/such/program", (NOT_FOUND, Errno::NOENT)),
            (c"no-such-program", (NOT_FOUND, Errno::NOENT)),
            (c"/etc/passwd", (CANNOT_EXECUTE, Errno::ACCESS)),
            (c"/", (CANNOT_EXECUTE, Errno::ACCESS)),
        ];
        for (command, expected) in cases {
            assert_eq!(workload(command, &[c"PATH=/bin:/etc/passwd"]).exec(), expected, "{command:?}");
        }
    }

    #[test]
    fn a_child_is_reaped_with_its_status() {
        let cases = [(c"exit 7", 7), (c"exit 0", 0), (c"kill -9 $$", 137), (c"kill -15 $$", 143)];
        for (script, expected) in cases {
            let shell =
                Workload { command: [c"/bin/sh", c"-c", script].into(), environment: [].into(), cwd: c"/" };
            let pid = match sys::fork().expect("fork") {
                Fork::Child => shell.become_command(),
                Fork::Parent(pid) => pid,
            };
            let (_, status) =
                rustix::process::waitpid(Some(pid), WaitOptions::empty()).expect("wait").expect("ended");
            assert_eq!(exit_status(status), expected, "{script:?}");
        }
    }
}
