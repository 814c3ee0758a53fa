//! The stage in which paths become descriptors. After it, nothing is opened by path any more.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{FileType, fstat};

use crate::config::{ConsoleSpec, FileRef, VmSpec};
use crate::devices::console::Sink;

/// A file that is not what it has to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("{flag} {name}: {source}")]
    Open {
        /// The flag that names it.
        flag: &'static str,
        /// Its path or descriptor.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a folder, a pipe, a device: something without a beginning and a length.
    #[error("{flag} {name}: not a regular file")]
    NotRegular {
        /// The flag that names it.
        flag: &'static str,
        /// Its path or descriptor.
        name: String,
    },
}

/// An open file and what to call it in messages.
#[derive(Clone, Debug)]
pub struct Named {
    /// The file.
    pub file: Arc<File>,
    /// Its path, or `fd:N`.
    pub name: String,
}

/// All files of a VM.
#[derive(Debug)]
pub struct Opened {
    /// `--kernel`.
    pub kernel: Option<Named>,
    /// `--initrd`.
    pub initrd: Option<Named>,
    /// `--firmware`.
    pub firmware: Option<Named>,
    /// Where console output goes; `None` for nowhere.
    pub console: Option<Sink>,
    /// `--result`.
    pub result: Option<File>,
}

impl Opened {
    /// Opens what `spec` names.
    pub fn new(spec: &VmSpec) -> Result<Self, Error> {
        let read = |flag, source: &Option<FileRef>| source.as_ref().map(|s| readable(flag, s)).transpose();
        Ok(Self {
            kernel: read("--kernel", &spec.boot.kernel)?,
            initrd: read("--initrd", &spec.boot.initrd)?,
            firmware: read("--firmware", &spec.boot.firmware)?,
            console: console(&spec.console)?,
            result: spec.result.as_ref().map(|path| writable("--result", path)).transpose()?,
        })
    }
}

fn readable(flag: &'static str, source: &FileRef) -> Result<Named, Error> {
    let name = source.to_string();
    let file = source.open().map_err(|source| Error::Open { flag, name: name.clone(), source })?;
    match fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::RegularFile) => Ok(Named { file: Arc::new(file), name }),
        _ => Err(Error::NotRegular { flag, name }),
    }
}

fn writable(flag: &'static str, target: &FileRef) -> Result<File, Error> {
    target.create().map_err(|source| Error::Open { flag, name: target.to_string(), source })
}

fn console(spec: &ConsoleSpec) -> Result<Option<Sink>, Error> {
    let fail = |name: &str| {
        let name = name.to_owned();
        move |source| Error::Open { flag: "--console", name, source }
    };
    let fd = match spec {
        ConsoleSpec::Off => return Ok(None),
        ConsoleSpec::Stdio => rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
            .map_err(|e| fail("stdio")(e.into()))?,
        ConsoleSpec::File(path) => writable("--console", path)?.into(),
    };
    Sink::new(fd).map(Some).map_err(fail("output"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_can_be_opened() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let by_path = readable("--kernel", &FileRef::Path(file.path().into())).unwrap();
        let by_fd = readable("--kernel", &FileRef::Fd(by_path.file.as_raw_fd())).unwrap();
        assert_eq!(by_fd.name, format!("fd:{}", by_path.file.as_raw_fd()));
        let text = |source| readable("--kernel", &source).unwrap_err().to_string();
        assert_eq!(
            text(FileRef::Path("/nowhere".into())),
            "--kernel /nowhere: No such file or directory (os error 2)"
        );
        assert_eq!(text(FileRef::Path("/".into())), "--kernel /: not a regular file");
        assert_eq!(text(FileRef::Path("/dev/null".into())), "--kernel /dev/null: not a regular file");
        assert_eq!(text(FileRef::Fd(9999)), "--kernel fd:9999: Bad file descriptor (os error 9)");
    }
}
