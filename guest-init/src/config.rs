//! The configuration, read whole.

use alloc::ffi::CString;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::init_config::{self, Directive};
use rustix::io::Errno;

use crate::error::Error;
use crate::file;

/// What [`abi::init_config`] says, collected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The host's name.
    pub hostname: Option<String>,
    /// Kernel modules and their parameters, in the order given.
    pub modules: Vec<(String, CString)>,
    /// `NAME=VALUE`.
    pub env: Vec<CString>,
    /// The workload's working directory.
    pub cwd: Option<CString>,
    /// The workload and its arguments; empty if none is named.
    pub command: Vec<CString>,
    /// Use Jiffy's ports though the machine does not announce them.
    pub ports_always: bool,
}

impl Config {
    /// Reads the file; the defaults if there is none.
    pub fn read() -> Result<Self, Error> {
        let bytes = match file::read(c"/etc/jiffy/init.conf", init_config::MAX_LEN) {
            Ok(bytes) => bytes,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Self::default()),
            Err(errno) => return Err(Error::system("read", init_config::PATH)(errno)),
        };
        let text = core::str::from_utf8(&bytes).map_err(|error| Error::Config(error.to_string()))?;
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let mut config = Self::default();
        for directive in init_config::directives(text) {
            match directive.map_err(|error| Error::Config(error.to_string()))? {
                Directive::Hostname(name) => config.hostname = Some(name.into()),
                Directive::Module { name, parameters } => {
                    config.modules.push((name.into(), c_string([parameters])));
                }
                Directive::Env { name, value } => config.env.push(c_string([name, "=", value])),
                Directive::Cwd(dir) => config.cwd = Some(c_string([dir])),
                Directive::Exec(text) | Directive::Arg(text) => config.command.push(c_string([text])),
                Directive::ArgLine(text) => {
                    if let Some(last) = config.command.pop() {
                        let last = last.to_string_lossy();
                        config.command.push(c_string([&last, "\n", text]));
                    }
                }
                Directive::PortsAlways => config.ports_always = true,
            }
        }
        Ok(config)
    }
}

/// The parts as one string; the format's values have no NUL, and none would survive here.
pub fn c_string<const N: usize>(parts: [&str; N]) -> CString {
    let mut bytes = parts.concat().into_bytes();
    bytes.retain(|&byte| byte != 0);
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_all() {
        let text = "ports always\nmodule kvm\nmodule kvm-amd nested=1\nenv A=b\nenv C=\nhostname lab\ncwd /srv\n\
                    exec sh\narg -c\narg one\n+ two\n+\n";
        let config = Config::parse(text).expect("well formed");
        assert_eq!(
            config,
            Config {
                hostname: Some("lab".into()),
                modules: [("kvm".into(), c"".into()), ("kvm-amd".into(), c"nested=1".into())].into(),
                env: [c"A=b".into(), c"C=".into()].into(),
                cwd: Some(c"/srv".into()),
                command: [c"sh".into(), c"-c".into(), c"one\ntwo\n".into()].into(),
                ports_always: true,
            }
        );
    }

    #[test]
    fn an_error_names_file_and_line() {
        let error = Config::parse("hostname a\nnonsense").expect_err("nonsense");
        assert!(error.to_string().starts_with("/etc/jiffy/init.conf: line 2: unknown directive `nonsense`"));
    }
}
