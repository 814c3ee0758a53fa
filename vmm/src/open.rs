//! The stage in which paths become descriptors. After it, nothing is opened by path any more.

mod console;
mod devices;

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{FileType, fstat};

use crate::config::{ConsoleSpec, FileRef, VmSpec};
use crate::devices::console::Sink;
use crate::disk;
use crate::machine::Attachment;

pub use console::Consoles;

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
    /// It would be overwritten although it is read, or written by two.
    #[error("{flag} {name}: is the file that {other} names: give another one")]
    Same {
        /// The flag that names it.
        flag: &'static str,
        /// Its path or descriptor.
        name: String,
        /// What has it already.
        other: Claim,
    },
    /// A disk image that cannot be one.
    #[error("{flag} {source}")]
    Disk {
        /// The flag that names it.
        flag: &'static str,
        /// What is wrong with it.
        source: disk::Error,
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
    /// `--module`, in their order.
    pub modules: Vec<Named>,
    /// The files of `--fw-cfg`, in the order of those; none for one that is given as text.
    pub fw_cfg: Vec<Option<Named>>,
    /// Where console output goes; `None` for nowhere.
    pub console: Option<Sink>,
    /// The consoles' ends.
    pub consoles: Consoles,
    /// The virtio devices.
    pub devices: Vec<Attachment>,
    /// `--result`.
    pub result: Option<File>,
}

impl Opened {
    /// Opens what `spec` names.
    pub fn new(spec: &VmSpec) -> Result<Self, Error> {
        check_descriptors(spec)?;
        let mut taken = Taken::default();
        let mut read = |flag, source: Option<&FileRef>| {
            let named = source.map(|s| readable(flag, s)).transpose()?;
            let identity = named.as_ref().and_then(|named| disk::identity(&named.file).ok().flatten());
            taken.uses.extend(identity.map(|identity| Use { claim: Claim::of(flag), identity, image: None }));
            Ok::<_, Error>(named)
        };
        let boot = &spec.boot;
        let modules = boot.modules.iter().filter_map(|it| read("--module", Some(&it.file)).transpose());
        let modules = modules.collect::<Result<_, _>>()?;
        let [kernel, initrd, firmware] =
            [("--kernel", &boot.kernel), ("--initrd", &boot.initrd), ("--firmware", &boot.firmware)]
                .map(|(flag, file)| read(flag, file.as_ref()));
        let fw_cfg = boot.fw_cfg.iter().map(|it| read("--fw-cfg", it.file.as_ref()));
        let fw_cfg = fw_cfg.collect::<Result<_, _>>()?;
        // What is only read comes first: devices change things.
        let (kernel, initrd, firmware) = (kernel?, initrd?, firmware?);
        let (devices, consoles) = devices::open(&spec.devices, &mut taken)?;
        let console = console(&spec.console, &mut taken)?;
        let result = spec.result.as_ref().map(|path| writable("--result", path, &mut taken)).transpose()?;
        for (flag, name, file) in taken.to_empty {
            file.set_len(0).map_err(|source| Error::Open { flag, name, source })?;
        }
        Ok(Self { kernel, initrd, firmware, modules, fw_cfg, devices, console, consoles, result })
    }
}

/// Checks that each `fd:N` is open, before any file of ours could have taken its number.
fn check_descriptors(spec: &VmSpec) -> Result<(), Error> {
    let boot = &spec.boot;
    let console = if let ConsoleSpec::File(target) = &spec.console { Some(target) } else { None };
    let own = [
        ("--kernel", boot.kernel.as_ref()),
        ("--initrd", boot.initrd.as_ref()),
        ("--firmware", boot.firmware.as_ref()),
        ("--console", console),
        ("--result", spec.result.as_ref()),
    ];
    let modules = boot.modules.iter().map(|it| ("--module", Some(&it.file)));
    let files = boot.fw_cfg.iter().map(|it| ("--fw-cfg", it.file.as_ref()));
    let given = own.into_iter().chain(modules).chain(files).filter_map(|(flag, file)| Some((flag, file?)));
    for (flag, file) in given.chain(devices::files(&spec.devices)) {
        if let FileRef::Fd(_) = file {
            file.open().map_err(|source| Error::Open { flag, name: file.to_string(), source })?;
        }
    }
    Ok(())
}

/// What has a file: a flag, or one of several.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    flag: &'static str,
    /// Which of several such flags, from 1.
    number: Option<usize>,
}

impl Claim {
    fn of(flag: &'static str) -> Self {
        Self { flag, number: None }
    }

    /// Of one of `count` such flags.
    fn one_of(flag: &'static str, index: usize, count: usize) -> Self {
        Self { flag, number: (count > 1).then_some(index + 1) }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { flag, number: None } => f.write_str(flag),
            Self { flag, number: Some(number) } => write!(f, "{flag} number {number}"),
        }
    }
}

/// A file in use.
#[derive(Debug)]
struct Use {
    claim: Claim,
    /// As [`disk::identity`] says.
    identity: (u64, u64),
    /// Whether it may be written, of a disk's image or one of persistent memory.
    image: Option<bool>,
}

/// What is in use, and what is to be emptied when all is there.
#[derive(Debug, Default)]
struct Taken {
    uses: Vec<Use>,
    to_empty: Vec<(&'static str, String, File)>,
}

fn readable(flag: &'static str, source: &FileRef) -> Result<Named, Error> {
    let name = source.to_string();
    let file = source.open().map_err(|source| Error::Open { flag, name: name.clone(), source })?;
    match fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::RegularFile) => Ok(Named { file: Arc::new(file), name }),
        _ => Err(Error::NotRegular { flag, name }),
    }
}

/// Opens a file for writing, which is emptied when all is there, if it is a regular one that was named by its path.
fn writable(flag: &'static str, target: &FileRef, taken: &mut Taken) -> Result<File, Error> {
    let name = || target.to_string();
    let fail = |source| Error::Open { flag, name: name(), source };
    let file = target.create().map_err(fail)?;
    if let Some(identity) = disk::identity(&file).map_err(fail)? {
        if let Some(other) = taken.uses.iter().find(|other| other.identity == identity) {
            return Err(Error::Same { flag, name: name(), other: other.claim });
        }
        taken.uses.push(Use { claim: Claim::of(flag), identity, image: None });
        // Devices have no length.
        let is_device = identity.0 == 0;
        if matches!(target, FileRef::Path(_)) && !is_device {
            taken.to_empty.push((flag, name(), file.try_clone().map_err(fail)?));
        }
    }
    Ok(file)
}

fn console(spec: &ConsoleSpec, taken: &mut Taken) -> Result<Option<Sink>, Error> {
    let fail = |name: &str| {
        let name = name.to_owned();
        move |source| Error::Open { flag: "--console", name, source }
    };
    let fd = match spec {
        ConsoleSpec::Off => return Ok(None),
        ConsoleSpec::Stdio => rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
            .map_err(|e| fail("stdio")(e.into()))?,
        ConsoleSpec::File(path) => writable("--console", path, taken)?.into(),
    };
    Sink::new(fd).map(Some).map_err(fail("output"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DiskConfig, RawConfig};
    use std::os::fd::AsRawFd;

    fn open(toml: &str) -> Result<Opened, Error> {
        let spec = RawConfig::parse(&"vm.toml".parse().unwrap(), toml.as_bytes()).unwrap().into_spec();
        Opened::new(&spec.unwrap())
    }

    #[test]
    fn nothing_that_is_read_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (kernel, other) = (path("kernel"), path("other"));
        std::fs::write(&kernel, "kernel").unwrap();
        std::fs::write(&other, "old").unwrap();
        let link = path("link");
        std::fs::hard_link(&kernel, &link).unwrap();
        for more in [format!("result = '{link}'"), format!("console = 'file={kernel}'")] {
            let error = open(&format!("kernel = '{kernel}'\n{more}")).unwrap_err().to_string();
            assert!(error.ends_with("is the file that --kernel names: give another one"), "{error}");
        }
        assert_eq!(std::fs::read(&kernel).unwrap(), b"kernel");
        let error = open(&format!("kernel = '{kernel}'\nconsole = 'file={other}'\nresult = '{other}'"));
        assert!(error.unwrap_err().to_string().contains("that --console names"));
        open(&format!("kernel = '{kernel}'\nconsole = 'off'\nresult = '{other}'")).unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"", "emptied");
    }

    #[test]
    fn what_devices_have_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (kernel, image, other) = (path("kernel"), path("image"), path("other"));
        std::fs::write(&kernel, "kernel").unwrap();
        for image in [&image, &other] {
            std::fs::write(image, vec![1; 2 << 20]).unwrap();
        }
        let [disk, second] = [&image, &other].map(|image| format!("'path={image}'"));
        let said = |devices: &str| open(&format!("kernel = '{kernel}'\n{devices}")).unwrap_err().to_string();
        let advice = "give each an image or an overlay of its own, or make both readonly";
        for (devices, flag, holder) in [
            (format!("disk = [{second}, {disk}, {disk}]"), "--disk", "--disk number 2"),
            (format!("disk = {disk}\npmem = {disk}"), "--pmem", "--disk"),
            (
                format!("disk = [{second}, 'path={image},readonly']\npmem = {disk}"),
                "--pmem",
                "--disk number 2",
            ),
            (format!("pmem = ['path={image},private', {disk}]"), "--pmem", "--pmem number 1"),
        ] {
            let expected = format!("{flag} {image}: is in use by this VM's own {holder}: {advice}");
            assert_eq!(said(&devices), expected);
        }
        let error = said(&format!("disk = [{second}, {disk}]\nport = 'name=a,file={image}'"));
        assert_eq!(
            error,
            format!("--port {image}: is the file that --disk number 2 names: give another one")
        );
        assert_eq!(std::fs::metadata(&image).unwrap().len(), 2 << 20, "not emptied");
        let config = DiskConfig::new(FileRef::Path(image.clone().into()));
        let another = disk::open(&config, &mut disk::Chain::default()).unwrap();
        let elsewhere = said(&format!("disk = {disk}"));
        assert!(elsewhere.contains("in use by another program"), "{elsewhere}");
        drop(another);
        open(&format!("kernel = '{kernel}'\ndisk = ['path={image},readonly', 'path={image},overlay=tmp']"))
            .unwrap();
    }

    #[test]
    fn one_descriptor_is_not_two_disks() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(2 << 20).unwrap();
        let fd = image.as_file().as_raw_fd();
        let kernel = tempfile::NamedTempFile::new().unwrap();
        let opened = |devices: &str| {
            let devices = devices.replace("FD", &format!("fd:{fd}"));
            open(&format!("kernel = '{}'\n{devices}", kernel.path().display()))
        };
        for devices in [
            "disk = ['path=FD', 'path=FD']",
            "disk = ['path=FD', 'path=FD,readonly']",
            "disk = 'path=FD'\npmem = 'path=FD'",
        ] {
            let error = opened(devices).unwrap_err().to_string();
            assert!(error.contains("is in use by this VM's own --disk"), "{devices}: {error}");
        }
        opened("disk = ['path=FD,readonly', 'path=FD,readonly']").unwrap();
    }

    #[test]
    fn a_start_that_fails_leaves_files_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (kernel, log, odd, overlay) = (path("kernel"), path("log"), path("odd"), path("overlay"));
        for (file, bytes) in [(&kernel, 10), (&log, 10), (&odd, 1000)] {
            std::fs::write(file, vec![b'x'; bytes]).unwrap();
        }
        for fails in [
            format!("kernel = '{}'\nport = 'name=a,file={log}'", path("absent")),
            format!("kernel = '{kernel}'\nport = 'name=a,file={log}'\nresult = '/absent/result'"),
            format!("kernel = '{kernel}'\nconsole = 'file={log}'\nport = 'name=a,file={kernel}'"),
        ] {
            open(&fails).unwrap_err();
            assert_eq!(std::fs::read(&log).unwrap().len(), 10, "{fails}");
        }
        let error = open(&format!("kernel = '{kernel}'\ndisk = 'path={odd},overlay={overlay}'")).unwrap_err();
        assert!(error.to_string().starts_with(&format!("--disk {odd}: 1000 bytes")), "{error}");
        assert_eq!(std::fs::metadata(&overlay).unwrap().len(), 0, "nothing is said of a base that cannot be");
        open(&format!("kernel = '{kernel}'\nport = 'name=a,file={log}'")).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"", "emptied");
    }

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
