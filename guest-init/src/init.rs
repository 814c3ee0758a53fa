//! What PID 1 does, in order.

use alloc::vec::Vec;
use core::ffi::CStr;

use abi::timeline::Mark;
use rustix::system::{RebootCommand, reboot, sethostname};

use crate::cmdline;
use crate::config::Config;
use crate::console::{self, say};
use crate::error::Error;
use crate::file;
use crate::modules;
use crate::mounts;
use crate::ports::Ports;
use crate::power;
use crate::sys::{self, Signals};
use crate::workload::{self, Workload};

/// What runs if nobody names a command.
const DEFAULT_COMMAND: [&CStr; 2] = [c"/proc/self/exe", c"greet"];
/// The kernel's own limit is 4096 (x86 `COMMAND_LINE_SIZE` is 2048).
const CMDLINE_LIMIT: usize = 4096;

/// Everything, from a bare kernel to the end of the VM.
pub fn run<S>(ports: Option<Ports>, args: S, environment: S) -> !
where
    S: Iterator<Item = &'static CStr> + Clone,
{
    let status = run_workload(ports, args, environment).unwrap_or_else(|error| {
        say(format_args!("{error}"));
        power::INIT_FAILED
    });
    power::off(Ports::opened().as_ref(), status)
}

fn run_workload<S>(ports: Option<Ports>, args: S, environment: S) -> Result<u8, Error>
where
    S: Iterator<Item = &'static CStr> + Clone,
{
    let dev = mounts::DEV.mount();
    console::open();
    dev?;
    let config = Config::read()?;
    let ports = match ports {
        None if config.ports_always => {
            let ports = Ports::open().map_err(Error::system("ioperm", ""))?;
            ports.mark(Mark::INIT_START);
            Some(ports)
        }
        ports => ports,
    };
    for mount in &mounts::OTHERS {
        mount.mount()?;
    }
    modules::load(&config.modules)?;
    if let Some(name) = &config.hostname {
        sethostname(name.as_bytes()).map_err(Error::system("hostname", name.as_str()))?;
    }
    // All signals wait until they are asked for. Ctrl-Alt-Del becomes a SIGINT to init, thus to the workload.
    sys::block_signals(&Signals::ALL).map_err(Error::system("block signals", ""))?;
    reboot(RebootCommand::CadOff).map_err(Error::system("take over Ctrl-Alt-Del", ""))?;

    let workload = Workload {
        command: command(&config, args)?,
        environment: workload::environment(
            environment.map(|variable| variable as &CStr),
            config.env.iter().map(|variable| &**variable),
        ),
        cwd: config.cwd.as_deref().unwrap_or(c"/"),
    };
    if let Some(ports) = ports {
        ports.mark(Mark::WORKLOAD_START);
    }
    let status = workload.run()?;
    if let Some(ports) = ports {
        ports.mark(Mark::WORKLOAD_END);
    }
    Ok(status)
}

/// The command line's, else the configuration's, else the greeting.
fn command<S>(config: &Config, args: S) -> Result<Vec<&CStr>, Error>
where
    S: Iterator<Item = &'static CStr> + Clone,
{
    #[cfg(feature = "planted")]
    abi::planted::spin();
    let cmdline =
        file::read(c"/proc/cmdline", CMDLINE_LIMIT).map_err(Error::system("read", "/proc/cmdline"))?;
    let wanted = cmdline::words_after_dashes(&cmdline);
    // The first one is init's own name.
    let given = args.clone().skip(1).count();
    if wanted > 0 {
        return Ok(args.skip(1 + given.saturating_sub(wanted)).collect());
    }
    if config.command.is_empty() {
        return Ok(DEFAULT_COMMAND.into());
    }
    Ok(config.command.iter().map(|word| &**word).collect())
}
