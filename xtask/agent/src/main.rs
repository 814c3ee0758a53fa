//! `lab-agent PLAN WORK CHANNEL`: does the plan in the file PLAN, with WORK as its folder, and reports on CHANNEL,
//! a serial port or a file.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{env, thread};

use agent::frame::{self, Frame};
use agent::{Event, Input, Plan};
use anyhow::{Context, Result, bail};
use rustix::termios::{OptionalActions, isatty, tcdrain, tcgetattr, tcsetattr};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [plan, work, channel] = args.as_slice() else { bail!("usage: lab-agent PLAN WORK CHANNEL") };
    let bytes = fs::read(plan).with_context(|| format!("cannot read {plan}"))?;
    let plan: Plan = postcard::from_bytes(&bytes).with_context(|| format!("{plan} is not a plan"))?;
    let port = File::options().read(true).append(true).open(channel);
    let port = port.with_context(|| format!("cannot open {channel}"))?;
    let input = Input::default();
    if isatty(&port) {
        let mut raw = tcgetattr(&port)?;
        raw.make_raw();
        tcsetattr(&port, OptionalActions::Now, &raw)?;
        let (from, input) = (port.try_clone()?, input.clone());
        // Ends with the process: a serial port has no end of file.
        thread::spawn(move || listen(from, &input));
    }
    let failed = Mutex::new(None);
    let out = Mutex::new(&port);
    agent::run(&plan, Path::new(work), &input, &|step, event| {
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = matches!(event, Event::End(_));
        let written = frame::write(&mut *out, &Frame { step, event });
        // Bytes that are still on their way would interrupt the next step.
        let drained = || if ended && isatty(&port) { Ok(tcdrain(&port)?) } else { Ok(()) };
        if let Err(error) = written.and_then(|()| drained()) {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    })?;
    if isatty(&port) {
        tcdrain(&port)?;
    }
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error).with_context(|| format!("cannot write to {channel}")),
        None => Ok(()),
    }
}

/// Passes what comes in on to the step that runs.
fn listen(mut from: File, input: &Input) {
    while let Ok(Some(frame)) = frame::read(&mut from) {
        match frame.event {
            Event::Stdin(bytes) if bytes.is_empty() => agent::close(input),
            Event::Stdin(bytes) => agent::feed(input, &bytes),
            _ => {}
        }
    }
}
