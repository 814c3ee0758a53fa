//! The configuration of init: plain text, one directive a line, at [`PATH`] in the guest.
//!
//! ```text
//! # Lines that start with # and empty lines say nothing.
//! hostname lab
//! module kvm_amd nested=1
//! env LANG=C.UTF-8
//! cwd /srv
//! exec /bin/sh
//! arg -c
//! arg echo "taken as it stands, quotes and all"
//! + echo second line of the same argument
//! ports always
//! ```
//!
//! | directive | meaning | how often |
//! |-|-|-|
//! | `hostname NAME` | the host's name | once |
//! | `module NAME [PARAMETERS]` | load a kernel module | any number |
//! | `env NAME=VALUE` | a variable of the workload | any number |
//! | `cwd DIR` | the workload's working directory, else `/` | once |
//! | `exec PATH` | the workload; looked up in `PATH` if without a slash | once |
//! | `arg TEXT` | its next argument: all that follows the one space | any number, after `exec` |
//! | `+ TEXT` | a further line of the argument above it | any number, after `arg` |
//! | `ports always` | use [`crate::ports::JIFFY`] even where [`crate::announce`] is silent | once |
//!
//! A reader is [`directives`]; a writer is the `Display` of [`Directive`].

use core::fmt;

/// Where init looks for its configuration. A guest without this file gets the defaults.
pub const PATH: &str = "/etc/jiffy/init.conf";
/// Longest configuration in bytes that init reads.
pub const MAX_LEN: usize = 64 * 1024;

/// One directive. Values borrow from the text and hold no NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive<'a> {
    /// `hostname NAME`.
    Hostname(&'a str),
    /// `module NAME [PARAMETERS]`.
    Module {
        /// As `modprobe` would take it: `-` and `_` mean the same.
        name: &'a str,
        /// Passed to the kernel as they stand; may be empty.
        parameters: &'a str,
    },
    /// `env NAME=VALUE`.
    Env {
        /// Not empty, without `=`.
        name: &'a str,
        /// May be empty.
        value: &'a str,
    },
    /// `cwd DIR`, an absolute path.
    Cwd(&'a str),
    /// `exec PATH`.
    Exec(&'a str),
    /// `arg TEXT`; written with `+` lines where the text has line breaks, read without any.
    Arg(&'a str),
    /// `+ TEXT`: a line break and TEXT, to be appended to the argument before.
    ArgLine(&'a str),
    /// `ports always`.
    PortsAlways,
}

impl fmt::Display for Directive<'_> {
    /// One or more whole lines, with their line breaks. Reads back as the same directive if its values are of
    /// the form that the type's fields promise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hostname(name) => writeln!(f, "hostname {name}"),
            Self::Module { name, parameters: "" } => writeln!(f, "module {name}"),
            Self::Module { name, parameters } => writeln!(f, "module {name} {parameters}"),
            Self::Env { name, value } => writeln!(f, "env {name}={value}"),
            Self::Cwd(dir) => writeln!(f, "cwd {dir}"),
            Self::Exec(path) => writeln!(f, "exec {path}"),
            Self::Arg(text) => {
                let mut lines = text.split('\n');
                writeln!(f, "arg {}", lines.next().unwrap_or_default())?;
                lines.try_for_each(|line| Self::ArgLine(line).fmt(f))
            }
            Self::ArgLine(text) => writeln!(f, "+ {text}"),
            Self::PortsAlways => writeln!(f, "ports always"),
        }
    }
}

/// A line that is not a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error<'a> {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub kind: ErrorKind<'a>,
}

/// What can be wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind<'a> {
    /// The first word is no directive.
    Unknown(&'a str),
    /// The directive lacks its value, or the value is not of the form given here.
    Value {
        /// The directive.
        directive: &'static str,
        /// The form of its value.
        form: &'static str,
    },
    /// A directive that may be given once is there again.
    Repeated(&'static str),
    /// The directive stands where the one that it belongs to is missing.
    Stray {
        /// The directive.
        directive: &'static str,
        /// What must come before it.
        after: &'static str,
    },
    /// The line has a NUL, which no string of the kernel's can hold.
    Nul,
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match self.kind {
            ErrorKind::Unknown(word) => write!(
                f,
                "unknown directive `{word}`; known are hostname, module, env, cwd, exec, arg, + and ports"
            ),
            ErrorKind::Value { directive, form } => write!(f, "`{directive}` takes {form}"),
            ErrorKind::Repeated(directive) => write!(f, "`{directive}` is there twice"),
            ErrorKind::Stray { directive, after } => write!(f, "`{directive}` must follow `{after}`"),
            ErrorKind::Nul => write!(f, "has a NUL byte"),
        }
    }
}

impl core::error::Error for Error<'_> {}

/// The directives of `text`, in order. After an error the iterator goes on with the next line.
#[must_use]
pub fn directives(text: &str) -> Directives<'_> {
    Directives { lines: text.split('\n'), line: 0, seen: Seen::default(), argument_above: false }
}

/// Iterator of [`directives`].
#[derive(Clone, Debug)]
pub struct Directives<'a> {
    lines: core::str::Split<'a, char>,
    line: usize,
    seen: Seen,
    argument_above: bool,
}

/// Which of the directives that may be given once were.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    hostname: bool,
    cwd: bool,
    exec: bool,
    ports: bool,
}

impl<'a> Iterator for Directives<'a> {
    type Item = Result<Directive<'a>, Error<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.lines.next()?;
            self.line += 1;
            if !line.trim().is_empty() && !line.starts_with('#') {
                let item = self.parse(line);
                self.argument_above = matches!(item, Ok(Directive::Arg(_) | Directive::ArgLine(_)));
                return Some(item.map_err(|kind| Error { line: self.line, kind }));
            }
        }
    }
}

impl<'a> Directives<'a> {
    fn parse(&mut self, line: &'a str) -> Result<Directive<'a>, ErrorKind<'a>> {
        if line.contains('\0') {
            return Err(ErrorKind::Nul);
        }
        let (word, verbatim) = line.split_once(' ').unwrap_or((line, ""));
        let value = verbatim.trim();
        match word {
            "hostname" => {
                once(&mut self.seen.hostname, "hostname")?;
                one_word(value)
                    .map(Directive::Hostname)
                    .ok_or(ErrorKind::Value { directive: "hostname", form: "a name: one word" })
            }
            "module" => {
                let (name, parameters) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
                let form = "a name, as in lsmod, then its parameters if any";
                if name.is_empty() || name.contains('/') {
                    return Err(ErrorKind::Value { directive: "module", form });
                }
                Ok(Directive::Module { name, parameters: parameters.trim_start() })
            }
            "env" => match verbatim.split_once('=') {
                Some((name, value)) if one_word(name).is_some() => Ok(Directive::Env { name, value }),
                _ => Err(ErrorKind::Value { directive: "env", form: "NAME=VALUE" }),
            },
            "cwd" => {
                once(&mut self.seen.cwd, "cwd")?;
                let form = "an absolute path";
                if !value.starts_with('/') {
                    return Err(ErrorKind::Value { directive: "cwd", form });
                }
                Ok(Directive::Cwd(value))
            }
            "exec" => {
                once(&mut self.seen.exec, "exec")?;
                if value.is_empty() {
                    return Err(ErrorKind::Value { directive: "exec", form: "a path or a command's name" });
                }
                Ok(Directive::Exec(value))
            }
            "arg" if self.seen.exec => Ok(Directive::Arg(verbatim)),
            "arg" => Err(ErrorKind::Stray { directive: "arg", after: "exec" }),
            "+" if self.argument_above => Ok(Directive::ArgLine(verbatim)),
            "+" => Err(ErrorKind::Stray { directive: "+", after: "arg" }),
            "ports" => {
                once(&mut self.seen.ports, "ports")?;
                if value != "always" {
                    return Err(ErrorKind::Value { directive: "ports", form: "the word `always`" });
                }
                Ok(Directive::PortsAlways)
            }
            _ => Err(ErrorKind::Unknown(word)),
        }
    }
}

fn once<'a>(seen: &mut bool, directive: &'static str) -> Result<(), ErrorKind<'a>> {
    if core::mem::replace(seen, true) { Err(ErrorKind::Repeated(directive)) } else { Ok(()) }
}

fn one_word(value: &str) -> Option<&str> {
    (!value.is_empty() && !value.contains(char::is_whitespace)).then_some(value)
}
