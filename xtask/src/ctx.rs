//! The context of a task: where things are, and how it talks to the user.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Exit status of xtask when a task itself fails; the same as `jiffy`'s for its own failures, so that the
/// status of a guest's command is told apart.
pub const FAILED: u8 = 125;

/// Options that every task has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Show the output of the commands that are run
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The context of a task.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// Root of the workspace.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// Downloads, and what is made from them; outside the tree, so that all checkouts share it.
    pub cache: PathBuf,
    /// Whether the output of commands is shown as it comes.
    pub verbose: bool,
}

impl Ctx {
    /// Finds the folders; fails when there is no place for the cache.
    pub fn new(options: &Options) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        let target = env_path("CARGO_TARGET_DIR").unwrap_or_else(|| root.join("target"));
        let cache = env_path("JIFFY_CACHE")
            .or_else(|| Some(env_path("XDG_CACHE_HOME")?.join("jiffy")))
            .or_else(|| Some(env_path("HOME")?.join(".cache/jiffy")))
            .context("no place for the cache: set JIFFY_CACHE, XDG_CACHE_HOME or HOME")?;
        Ok(Self { root: root.to_owned(), target, cache, verbose: options.verbose })
    }

    /// Where the parts that users take away are left.
    #[must_use]
    pub fn dist(&self) -> PathBuf {
        self.target.join("dist")
    }

    /// `cargo`, in the workspace.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }

    /// Shows `message` while the returned value lives: a spinner on a terminal, else one line.
    #[must_use]
    pub fn step(&self, message: impl Into<String>) -> Step {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let message = message.into();
        if bar.is_hidden() || self.verbose {
            eprintln!("{message}");
            bar.set_draw_target(ProgressDrawTarget::hidden());
        } else {
            bar.set_style(
                ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}").expect("template is right"),
            );
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar.set_message(message);
        Step(bar)
    }

    /// As [`Ctx::step`], for work of which it is known how much there is: a bar on a terminal, else a line for each
    /// tenth.
    #[must_use]
    pub fn bar(&self, message: impl Into<String>, length: u64) -> Step {
        let step = self.step(message);
        step.0.set_length(length);
        let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {percent} % {elapsed}");
        step.0.set_style(style.expect("template is right"));
        step
    }

    /// Runs `command` to its end and requires that it succeeds. Its output is shown as it comes when the user
    /// asked for that, else only when it fails.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let shown = show(command);
        command.stdin(Stdio::null());
        if self.verbose {
            eprintln!("+ {shown}");
            let status = command.status().with_context(|| format!("cannot run {shown}"))?;
            if !status.success() {
                bail!("{shown}: {status}");
            }
            return Ok(());
        }
        let output = command.output().with_context(|| format!("cannot run {shown}"))?;
        check(&shown, &output)
    }

    /// Runs `command` to its end, requires that it succeeds, and returns what it wrote to standard output.
    pub fn read(&self, command: &mut Command) -> Result<String> {
        let shown = show(command);
        if self.verbose {
            eprintln!("+ {shown}");
        }
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
        check(&shown, &output)?;
        String::from_utf8(output.stdout).with_context(|| format!("output of {shown}"))
    }
}

/// Progress of one piece of long work; ends when dropped.
#[derive(Debug)]
pub struct Step(ProgressBar);

impl Step {
    /// Replaces the message.
    pub fn message(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }

    /// Says how much of a bar's length is done.
    pub fn advance(&self, to: u64) {
        let tenth = |position: u64| position * 10 / self.0.length().unwrap_or(1).max(1);
        if self.0.is_hidden() && tenth(to) > tenth(self.0.position()) {
            eprintln!("{}: {} %", self.0.message(), tenth(to).min(10) * 10);
        }
        self.0.set_position(to);
    }

    /// Ends it.
    pub fn done(&self) {
        self.0.finish_and_clear();
    }

    /// Prints a line above the progress, to standard error.
    pub fn line(&self, line: &str) {
        self.0.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.done();
    }
}

fn check(shown: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).trim_end().to_owned());
    bail!("{shown}: {}\n{}", output.status, text.join("\n").trim());
}

/// A command as one would type it, for messages.
#[must_use]
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
