//! The command line: arguments become one [`Command`].

mod args;
mod elsewhere;

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};

use crate::config::{self, ConsoleSpec, FileRef, OneLine, RawConfig, ValueError, VmSpec};

use args::{Cli, Run, Task};

/// What `jiffy` was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a VM.
    Run(Box<VmSpec>),
    /// Say what this host's KVM offers.
    Probe {
        /// For programs instead of people.
        json: bool,
    },
    /// Write this text to standard output: help, version, a configuration, a schema, completions.
    Print(String),
}

/// Why the command line means nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not of the form that `--help` shows.
    #[error("{}; --help explains", OneLine(.0))]
    Usage(String),
    /// The value of a flag cannot be.
    #[error("{flag}: {source}")]
    Value {
        /// The flag, with its leading dashes, and for devices what is said of this one.
        flag: String,
        /// What is wrong with it.
        source: ValueError,
    },
    /// It, or the file that it names, configures no VM.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// What is written would replace what was read.
    #[error("{flag} {file}: is the file that --config names: give another one")]
    Overwrites {
        /// The flag that names it.
        flag: &'static str,
        /// What it is called there.
        file: FileRef,
    },
}

/// Reads the command line, the program's name first, and the configuration file that it names.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => return instead_of_parsing(&e),
    };
    Ok(match cli.task {
        Task::Run(run) => self::run(*run)?,
        Task::Probe { json } => Command::Probe { json },
        Task::Schema => Command::Print(config::schema()),
        Task::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "jiffy", &mut text);
            Command::Print(String::from_utf8_lossy(&text).into_owned())
        }
    })
}

fn run(Run { config, print_config, flags }: Run) -> Result<Command, Error> {
    let file = config.as_ref().map(RawConfig::load).transpose()?.unwrap_or_default();
    let spec = flags.or(file).into_spec()?;
    if let Some(config) = config {
        spare(&config, &spec)?;
    }
    Ok(if print_config { Command::Print(spec.to_toml()?) } else { Command::Run(Box::new(spec)) })
}

/// Checks that nothing is written to the configuration file, which is not open any more when outputs are opened.
fn spare(config: &FileRef, spec: &VmSpec) -> Result<(), Error> {
    // Of a terminal nothing is lost, nor of a pipe.
    let found = |file: &FileRef| file.metadata().ok().filter(Metadata::is_file);
    let identity = |file: &FileRef| found(file).map(|found| (found.dev(), found.ino()));
    let Some(read) = identity(config) else { return Ok(()) };
    let console = if let ConsoleSpec::File(file) = &spec.console { Some(file) } else { None };
    let ports = spec.devices.ports.iter().map(|port| ("--port", &port.file));
    let own = [("--console", console), ("--result", spec.result.as_ref())];
    let own = own.into_iter().filter_map(|(flag, file)| Some((flag, file?)));
    match own.chain(ports).find(|(_, file)| identity(file) == Some(read)) {
        Some((flag, file)) => Err(Error::Overwrites { flag, file: file.clone() }),
        None => Ok(()),
    }
}

/// Help and version come out of clap as errors; true errors become one line.
fn instead_of_parsing(e: &clap::Error) -> Result<Command, Error> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};

    let text = e.render().to_string();
    if matches!(e.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion) {
        return Ok(Command::Print(text));
    }
    let value_error = std::error::Error::source(e).and_then(|source| source.downcast_ref());
    if let (Some(source), Some(ContextValue::String(arg))) = (value_error, e.get(ContextKind::InvalidArg)) {
        let flag = arg.split([' ', '[']).next().unwrap_or(arg);
        // A flag of devices can be given several times.
        let flag = match source {
            ValueError::Pairs { text, .. } if !text.is_empty() => format!("{flag} {}", OneLine(text)),
            _ => flag.to_owned(),
        };
        return Err(Error::Value { flag, source: ValueError::clone(source) });
    }
    // What is wrong and perhaps a tip; then come the usage and where there is help.
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.find(mark)).min();
    let said = text[..end.unwrap_or(text.len())].lines().map(str::trim).filter(|line| !line.is_empty());
    let tip = elsewhere::tip(e);
    let said = said.filter(|line| tip.is_none() || !line.starts_with("tip: ")).chain(tip.as_deref());
    // A line that ends in a colon is the head of a list.
    Err(Error::Usage(said.collect::<Vec<_>>().join("; ").replace(":; ", ": ")))
}

#[cfg(test)]
mod tests;
