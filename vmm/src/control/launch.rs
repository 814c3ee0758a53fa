//! A VM from its specification to its end: open, build, seal, run.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{Handle, Running, Signals};
use crate::boot::{self, BootState, Input};
use crate::config::{ConsoleSpec, FileRef, Protocol, VmSpec};
use crate::devices::console::{InputPump, OutputPump, Terminal};
use crate::kvm::{self, Host};
use crate::machine::{self, Wiring};
use crate::memory::layout::RamLayout;
use crate::memory::{self, Memory};
use crate::open::{self, Named, Opened};
use crate::outcome::{FAILURE, Outcome};
use crate::sandbox;
use crate::timeline::{Step, Timeline};

/// A VM that could not be started, or not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not what it has to be.
    #[error(transparent)]
    Open(#[from] open::Error),
    /// The guest cannot be loaded.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// KVM is not there, or refused.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The machine could not be built.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// It could not be run to its end.
    #[error(transparent)]
    Control(#[from] super::Error),
    /// The guest needs a real processor.
    #[error(
        "this host's KVM emulates guests in software and cannot run Linux: use a host with hardware virtualisation \
         (`jiffy probe` tells)"
    )]
    SoftwareKvm,
    /// Something else that the system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// The record of a run: what `--result` writes.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How the VM ended; absent when it could not be run.
    #[serde(flatten)]
    pub outcome: Option<Outcome>,
    /// What went wrong on our side.
    pub error: Option<String>,
    /// The exit code of `jiffy`.
    pub exit_code: u8,
    /// Bytes of console output that nobody took in time.
    pub console_lost: u64,
    /// When what happened.
    pub timeline: crate::timeline::Report,
}

/// Runs a VM, and writes `--result`. `started` gets what commands can be sent through, once the guest runs.
pub fn launch(spec: &VmSpec, timeline: &Arc<Timeline>, started: impl FnOnce(Handle)) -> Report {
    let mut console_lost = 0;
    let mut result = None;
    let ended = run(spec, timeline, started, &mut result, &mut console_lost);
    timeline.step(Step::VmDestroyed);
    let (outcome, error) = match ended {
        Ok(outcome) => (Some(outcome), None),
        Err(e) => (None, Some(e.to_string())),
    };
    let exit_code = outcome.as_ref().map_or(FAILURE, Outcome::exit_code);
    let mut report = Report { outcome, error, exit_code, console_lost, timeline: timeline.report() };
    if let Err(e) = result.map_or(Ok(()), |file| write_result(&file, &report)) {
        report.error.get_or_insert(format!("--result: {e}"));
        report.exit_code = FAILURE;
    }
    report
}

fn write_result(mut file: &File, report: &Report) -> std::io::Result<()> {
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    file.write_all(&text)
}

fn run(
    spec: &VmSpec,
    timeline: &Arc<Timeline>,
    started: impl FnOnce(Handle),
    result: &mut Option<File>,
    console_lost: &mut u64,
) -> Result<Outcome, Error> {
    let mut opened = Opened::new(spec)?;
    *result = opened.result.take();
    let host = Host::open()?;
    timeline.step(Step::KvmOpened);

    let layout = RamLayout::new(spec.memory.size);
    let memory = Memory::new(&spec.memory, &layout)?;
    timeline.step(Step::MemoryMapped);

    let cmdline = machine::cmdline(spec, &opened.devices)?;
    let boot = prepare(spec, &opened, &cmdline, layout)?;
    check_level(&boot)?;
    let bytes = boot.loaded_bytes;
    let start = machine::load(boot, &memory)?;
    timeline.step(Step::KernelLoaded { bytes });

    let console = opened.consoles.output.clone();
    let input = opened.consoles.input.clone();
    let wiring = Wiring { console: console.clone(), input, timeline: Arc::clone(timeline) };
    let machine = machine::build(&host, spec, memory, start, &wiring, opened.devices)?;
    timeline.step(Step::VcpusReady);

    let signals = Signals::take_over().map_err(system("signals"))?;
    let sealed = sandbox::seal().map_err(system("sandbox"))?;
    let mut running = Running::start(machine, timeline, false, &sealed)?;

    let stdio = spec.console == ConsoleSpec::Stdio;
    let terminal = if stdio { Terminal::raw().map_err(system("terminal"))? } else { None };
    if terminal.is_some() {
        running.board().devices.tell_size();
    }
    let mut sources = running.board().devices.sources();
    // After all that may have something left to say.
    sources.extend(opened.consoles.pumps());
    sources.push(Box::new(OutputPump::new(console.clone(), opened.console)));
    if stdio && !boots_from_stdin(spec) {
        let (port, handle) = (Arc::clone(&running.board().devices.input), running.handle());
        let end = Box::new(move || handle.end(libc::SIGINT as u8));
        sources.push(Box::new(InputPump::new(port, console.clone(), end).map_err(system("console input"))?));
    }
    running.serve(sources)?;
    started(running.handle());
    let outcome = running.run(Some(&signals))?;
    drop(terminal);
    *console_lost = console.lost();
    Ok(outcome)
}

fn prepare(spec: &VmSpec, opened: &Opened, cmdline: &str, ram: RamLayout) -> Result<BootState, boot::Error> {
    fn input(named: &Option<Named>) -> Option<Input<'_>> {
        named.as_ref().map(|n| Input { file: Arc::clone(&n.file), name: &n.name })
    }
    let modules = opened.modules.iter().zip(&spec.boot.modules);
    let modules = modules
        .map(|(named, module)| {
            (Input { file: Arc::clone(&named.file), name: &named.name }, module.cmdline.as_str())
        })
        .collect();
    let fw_cfg = opened.fw_cfg.iter().zip(&spec.boot.fw_cfg).map(|(named, it)| {
        let text = it.string.as_deref().unwrap_or_default();
        (it.name.as_str(), input(named).ok_or(text))
    });
    boot::load(&boot::Request {
        kernel: input(&opened.kernel),
        initrd: input(&opened.initrd),
        firmware: input(&opened.firmware),
        modules,
        fw_cfg: fw_cfg.collect(),
        cmdline,
        protocol: spec.boot.protocol,
        unpack: spec.boot.unpack,
        kaslr: spec.boot.kaslr,
        ram,
        rsdp: Some(abi::layout::ACPI.start),
        unpack_cache: cache_folder().as_deref(),
    })
}

/// Refuses early what would run for minutes and then meet an instruction that software KVM does not know. Hosts
/// whose processor shows its virtualisation are not asked.
fn check_level(boot: &BootState) -> Result<(), Error> {
    if is_linux(boot) && !kvm::has_hardware_hint() && kvm::Probe::run().level == kvm::Level::Software {
        return Err(Error::SoftwareKvm);
    }
    Ok(())
}

/// Whether standard input is what the guest boots from (`fd:0`), and so nothing to type into its console.
fn boots_from_stdin(spec: &VmSpec) -> bool {
    let boot = &spec.boot;
    let files = [&boot.kernel, &boot.initrd, &boot.firmware].into_iter().flatten();
    let more = boot.fw_cfg.iter().filter_map(|it| it.file.as_ref());
    files.chain(boot.modules.iter().map(|it| &it.file)).chain(more).any(|file| *file == FileRef::Fd(0))
}

/// Only Linux is entered by its own protocol, or comes as a `bzImage`.
fn is_linux(boot: &BootState) -> bool {
    boot.kernel
        .as_ref()
        .is_some_and(|kernel| kernel.protocol == Protocol::Linux64 || kernel.unpacked.is_some())
}

/// Where unpacked kernels are kept: `$XDG_CACHE_HOME/jiffy/kernels`, by default in `~/.cache`.
fn cache_folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("jiffy/kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{BootCpu, KernelReport, Origin};
    use crate::config::RawConfig;

    #[test]
    fn a_kernel_is_no_console_input() {
        let spec = |toml: &str| {
            RawConfig::parse(&"vm.toml".parse().unwrap(), toml.as_bytes()).unwrap().into_spec().unwrap()
        };
        assert!(boots_from_stdin(&spec("kernel = 'fd:0'")));
        assert!(boots_from_stdin(&spec("kernel = 'a'\ninitrd = 'fd:0'")));
        assert!(!boots_from_stdin(&spec("kernel = 'fd:3'")));
    }

    #[test]
    fn linux_is_known_by_protocol_and_form() {
        let unpacked = || Some(Origin::Cache);
        let table = [
            (Protocol::Linux64, None, true),
            (Protocol::Linux64, unpacked(), true),
            (Protocol::Pvh, unpacked(), true),
            (Protocol::Pvh, None, false),
        ];
        for (protocol, unpacked, linux) in table {
            let kernel = Some(KernelReport { protocol, unpacked, kaslr_offset: None });
            let (writes, firmware, loaded_bytes) = (Vec::new(), None, 0);
            let boot = BootState { writes, firmware, cpu: BootCpu::Reset, loaded_bytes, kernel };
            assert_eq!(is_linux(&boot), linux, "{:?}", boot.kernel);
        }
    }
}
