//! The `jiffy` command. It is entered by the C library: what std does before its own `main` (it reads
//! `/proc/self/maps`, and prepares messages about stack overflows, in every thread) is a tenth of a start.
#![no_main]
#![allow(unsafe_code, reason = "the C library calls `main`, and has settings that only C can make")]

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::stdio::{stderr, stdin, stdout};
use vmm::cli::{self, Command};
use vmm::config::{TimelineMode, VmSpec};
use vmm::devices::console::restore_on_panic;
use vmm::outcome::FAILURE;
use vmm::timeline::{Clock, HostClock, Stamp, Step, Style, Timeline};
use vmm::{control, kvm};

#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    let start = HostClock.stamp();
    prepare();
    let code = match cli::parse(std::env::args_os()) {
        Ok(Command::Run(spec)) => run(&spec, start),
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Probe { json }) => print(&kvm::Probe::run().describe(json)),
        Err(e) => fail(&e.to_string()),
    };
    code.into()
}

/// What the process needs before anything else.
fn prepare() {
    restore_on_panic(FAILURE);
    // A reader that is gone and a file that may not grow are errors of the write, and a terminal whose foreground
    // we have left is no reason to stop the guest.
    for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGTTIN, libc::SIGTTOU] {
        // SAFETY: no handler is installed, and no other thread runs.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // One heap for all threads: an arena of its own costs each of them six system calls.
    // SAFETY: no other thread runs.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    occupy_standard_streams();
}

/// Gives standard streams that are closed to `/dev/null`, so that no file of ours takes their numbers.
fn occupy_standard_streams() {
    let mut streams =
        [stdin(), stdout(), stderr()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut streams, Some(&now)).is_ok_and(|ready| ready > 0) {
        for _ in streams.iter().filter(|stream| stream.revents().contains(PollFlags::NVAL)) {
            // The lowest free number is the one of the first closed stream.
            let _ = File::options().read(true).write(true).open("/dev/null").map(IntoRawFd::into_raw_fd);
        }
    }
}

fn run(spec: &VmSpec, start: Stamp) -> u8 {
    let on = spec.timeline != TimelineMode::Off || spec.result.is_some();
    let timeline = Arc::new(Timeline::new(HostClock, start, spec.timeline_origin, on));
    timeline.step(Step::ConfigRead);
    let report = control::launch(spec, &timeline, drop);
    if report.console_lost > 0 {
        let lost = report.console_lost;
        say(format_args!(
            "jiffy: {lost} bytes of console output were lost: nobody took them in time, or they could not be written\n"
        ));
    }
    if let Some(outcome) = report.outcome.as_ref().filter(|outcome| !outcome.is_ordinary()) {
        say(format_args!("jiffy: {outcome}\n"));
    }
    if let Some(error) = &report.error {
        say(format_args!("jiffy: {error}\n"));
    }
    match spec.timeline {
        TimelineMode::Off => {}
        TimelineMode::Text => say(format_args!("{}", report.timeline.to_text(style()))),
        // A report is plain data and always serialises.
        TimelineMode::Json => {
            say(format_args!("{}\n", serde_json::to_string(&report.timeline).unwrap_or_default()));
        }
    }
    report.exit_code
}

/// As wide as the terminal, and in ASCII where the locale does not promise UTF-8.
fn style() -> Style {
    let width = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    let utf8 = locale.is_none_or(|l| l.to_string_lossy().to_lowercase().replace('-', "").ends_with("utf8"));
    Style { width: if width == 0 { 100 } else { width }, ascii: !utf8 }
}

fn print(text: &str) -> u8 {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => 0,
        // The reader has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(e) => fail(&format!("standard output: {e}")),
    }
}

fn fail(message: &str) -> u8 {
    say(format_args!("jiffy: {message}\n"));
    FAILURE
}

/// Writes to standard error. One that takes nothing (a full disk, a reader that is gone) changes nothing about how
/// we end.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}
