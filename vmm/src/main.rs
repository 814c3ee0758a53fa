//! The `jiffy` command.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use vmm::cli::{self, Command};
use vmm::config::{TimelineMode, VmSpec};
use vmm::devices::console::Terminal;
use vmm::outcome::FAILURE;
use vmm::timeline::{Clock, HostClock, Stamp, Step, Style, Timeline};
use vmm::{control, kvm};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        Terminal::restore();
        eprintln!("jiffy: internal error, please report it: {panic}");
        std::process::exit(FAILURE.into());
    }));
    let start = HostClock.stamp();
    match cli::parse(std::env::args_os()) {
        Ok(Command::Run(spec)) => run(&spec, start),
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Probe { json }) => print(&kvm::Probe::run().describe(json)),
        Err(e) => fail(&e.to_string()),
    }
}

fn run(spec: &VmSpec, start: Stamp) -> ExitCode {
    let on = spec.timeline != TimelineMode::Off || spec.result.is_some();
    let timeline = Arc::new(Timeline::new(HostClock, start, spec.timeline_origin, on));
    timeline.step(Step::ConfigRead);
    let report = control::launch(spec, &timeline);
    if report.console_lost > 0 {
        eprintln!(
            "jiffy: {} bytes of console output were lost: nobody read them in time",
            report.console_lost
        );
    }
    if let Some(outcome) = report.outcome.as_ref().filter(|outcome| !outcome.is_ordinary()) {
        eprintln!("jiffy: {outcome}");
    }
    if let Some(error) = &report.error {
        eprintln!("jiffy: {error}");
    }
    match spec.timeline {
        TimelineMode::Off => {}
        TimelineMode::Text => eprint!("{}", report.timeline.to_text(style())),
        // A report is plain data and always serialises.
        TimelineMode::Json => eprintln!("{}", serde_json::to_string(&report.timeline).unwrap_or_default()),
    }
    ExitCode::from(report.exit_code)
}

/// As wide as the terminal, and in ASCII where the locale does not promise UTF-8.
fn style() -> Style {
    let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    let utf8 = locale.is_none_or(|l| l.to_string_lossy().to_lowercase().replace('-', "").ends_with("utf8"));
    Style { width: if width == 0 { 100 } else { width }, ascii: !utf8 }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => fail(&format!("standard output: {e}")),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("jiffy: {message}");
    ExitCode::from(FAILURE)
}
