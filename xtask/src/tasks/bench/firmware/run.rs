//! One firmware on one machine, up to its payload.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use abi::ports;
use anyhow::{Context, Result};
use xtask::ctx::Ctx;
use xtask::guests::BENCH_PORT;
use xtask::lab::Speed;
use xtask::lab::qemu::{Machine, Process};

use super::{Case, Way, log};

/// The slowest that Debian packages is there after a second of a busy host; what is not there by then hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// None if the payload is not reached.
pub(super) fn measure(ctx: &Ctx, case: &Case, rom: PathBuf) -> Result<Option<Way>> {
    let place = tempfile::tempdir()?;
    let (said, log) = (place.path().join("said"), place.path().join("log"));
    let mut machine = Machine::with_firmware(case.machine, rom);
    machine.kernel = Some(case.payload.file(ctx)?);
    machine.speed = Speed::Exact { seed: 1 };
    machine.args = [
        "-device".to_owned(),
        format!("isa-debug-exit,iobase={:#x}", ports::DEBUG_EXIT),
        "-chardev".to_owned(),
        format!("file,id=said,path={}", said.display()),
        "-device".to_owned(),
        format!("isa-debugcon,iobase={BENCH_PORT:#x},chardev=said"),
        "-D".to_owned(),
        log.display().to_string(),
        "-trace".to_owned(),
        "memory_region_ops_*".to_owned(),
    ]
    .into();
    machine.args.extend(case.devices.iter().map(|&word| word.to_owned()));
    let mut command = machine.command(ctx)?;
    let mut qemu = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
    if qemu.wait(Instant::now() + DEADLINE).is_err() {
        return Ok(None);
    }
    let said = fs::read(&said).context("QEMU did not start")?;
    let Ok(instructions) = <[u8; 4]>::try_from(said) else { return Ok(None) };
    let accesses = log::read(BufReader::new(File::open(&log)?))?;
    Ok(Some(Way { instructions: u32::from_le_bytes(instructions).into(), accesses }))
}
