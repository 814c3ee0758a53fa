//! `jiffy run` whose guest is paused and resumed again and again, from when a file is there to its end: takes the same
//! words, ends with the same exit code, and writes a line to standard error after every hundred pauses.
//!
//! Usage: `pauser FILE run …`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vmm::cli::{self, Command};
use vmm::control::{self, Error, Handle};
use vmm::outcome::FAILURE;
use vmm::timeline::Timeline;

/// The guest runs for so long between two pauses: long enough to get on.
const RUNS: Duration = Duration::from_millis(10);
/// It is held for so long: long enough to see what does not stop with it.
const HELD: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.len() < 3 {
        return fail("usage: pauser FILE run …");
    }
    let file = words.remove(1);
    let spec = match cli::parse(words) {
        Ok(Command::Run(spec)) => spec,
        Ok(_) => return fail("only what is run can be paused"),
        Err(error) => return fail(&error.to_string()),
    };
    let timeline = Arc::new(Timeline::begin(None, false));
    let report = control::launch(&spec, &timeline, |vm| {
        thread::spawn(move || {
            match pause(&vm, file.as_ref()) {
                // It has ended; `launch` says how.
                Ok(()) | Err(Error::Abandoned) => {}
                Err(error) => {
                    fail(&error.to_string());
                    std::process::exit(FAILURE.into());
                }
            }
        });
    });
    if let Some(error) = report.error {
        return fail(&error);
    }
    ExitCode::from(report.exit_code)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("pauser: {message}");
    ExitCode::from(FAILURE)
}

/// Until the VM is gone.
fn pause(vm: &Handle, file: &Path) -> Result<(), Error> {
    while !file.exists() {
        thread::sleep(RUNS);
    }
    for round in 1_u64.. {
        thread::sleep(RUNS);
        vm.pause()?;
        thread::sleep(HELD);
        vm.resume()?;
        if round.is_multiple_of(100) {
            eprintln!("pauser: {round} pauses");
        }
    }
    Ok(())
}
