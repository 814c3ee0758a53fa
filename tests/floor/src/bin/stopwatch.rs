//! Runs one command and says when it started, when its first output came and when it was reaped.
//!
//! Usage: `stopwatch COMMAND [ARG …]`; `@start@` in an argument becomes the start's stamp. Prints one JSON object:
//! `start`, `first_output` and `reaped` in nanoseconds of `CLOCK_MONOTONIC`, `status` (128 + n when killed by
//! signal n), `stdout`, `stderr`. A small program of its own, so that the parent of what is measured is the same
//! natively and in a lab.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, Read as _, Seek as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: stopwatch COMMAND [ARG …]");
        return ExitCode::from(125);
    };
    match measure(&program, args) {
        Ok(record) => {
            println!("{record}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("stopwatch: {}: {e}", program.display());
            ExitCode::from(125)
        }
    }
}

fn now() -> i64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

fn measure(program: &OsString, args: impl Iterator<Item = OsString>) -> Result<serde_json::Value, Error> {
    let args: Vec<OsString> = args.collect();
    // Memory takes all that a program may say on standard error without making it wait.
    let mut stderr = File::from(memfd_create("stderr", MemfdFlags::CLOEXEC)?);
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
    let start = now();
    for arg in args {
        command.arg(match arg.to_str() {
            Some(text) => text.replace("@start@", &start.to_string()).into(),
            None => arg,
        });
    }
    let mut child = command.spawn()?;
    let mut first_output = None;
    let mut stdout = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        let mut chunk = [0; 4096];
        loop {
            let length = pipe.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            first_output.get_or_insert_with(now);
            stdout.extend_from_slice(&chunk[..length]);
        }
    }
    let status = child.wait()?;
    let reaped = now();
    let mut errors = Vec::new();
    stderr.rewind()?;
    stderr.read_to_end(&mut errors)?;
    Ok(serde_json::json!({
        "start": start,
        "first_output": first_output,
        "reaped": reaped,
        "status": status.code().or(status.signal().map(|signal| 128 + signal)),
        "stdout": String::from_utf8_lossy(&stdout),
        "stderr": String::from_utf8_lossy(&errors),
    }))
}
