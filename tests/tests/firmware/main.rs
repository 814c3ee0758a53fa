//! Jiffy's ROM under QEMU's machines, in place of their own firmware, and what it boots there.

mod bad_input;
mod linux;
mod others;
mod payloads;
mod unikernels;

use std::process::ExitCode;
use std::time::Duration;

use abi::firmware::Code;
use abi::ports;
use anyhow::{Result, ensure};
use tests::suite;
use xtask::built;
use xtask::ctx::Ctx;
use xtask::lab::qemu::{Ended, Input, Machine};

/// Long enough for any machine on a slow and busy host.
const DEADLINE: Duration = Duration::from_secs(90);
const MACHINES: [&str; 3] = ["microvm", "q35", "pc"];

fn main() -> ExitCode {
    suite::run(|_, place| {
        let mut trials = payloads::trials(place)?;
        trials.extend(linux::trials(place)?);
        trials.extend(others::trials());
        trials.extend(unikernels::trials());
        trials.extend(bad_input::trials(place));
        Ok(trials)
    })
}

/// A machine of QEMU's that starts Jiffy's ROM, with QEMU's debug-exit device.
fn machine(ctx: &Ctx, name: &str) -> Result<Machine> {
    let mut machine = Machine::with_firmware(name, built::FIRMWARE.path(ctx)?);
    machine.memory_mib = 256;
    machine.args = vec!["-device".to_owned(), format!("isa-debug-exit,iobase={:#x}", ports::DEBUG_EXIT)];
    Ok(machine)
}

/// Boots it and waits for its own end.
fn boot(ctx: &Ctx, machine: &Machine) -> Result<(Ended, String)> {
    let ended = machine.boot(ctx, Input::None, DEADLINE, |_| true)?;
    let shown = String::from_utf8_lossy(&ended.console).into_owned();
    Ok((ended, shown))
}

/// Boots it until its console has shown all of `texts`, in any order.
fn boot_until(ctx: &Ctx, machine: &Machine, texts: &[&str]) -> Result<()> {
    let mut shown = Vec::new();
    let mut seen = vec![false; texts.len()];
    machine.boot(ctx, Input::None, DEADLINE, |bytes| {
        shown.extend_from_slice(bytes);
        let shown = String::from_utf8_lossy(&shown);
        seen.iter_mut().zip(texts).for_each(|(seen, text)| *seen |= shown.contains(text));
        seen.contains(&false)
    })?;
    let missing = seen.iter().zip(texts).find(|(seen, _)| !**seen);
    ensure!(missing.is_none(), "it ended without {missing:?}: {}", String::from_utf8_lossy(&shown));
    Ok(())
}

/// It gave up with one line that has these words, and this code.
fn gives_up(ctx: &Ctx, machine: &Machine, code: Code, words: &str) -> Result<()> {
    let (ended, shown) = boot(ctx, machine)?;
    let said: Vec<&str> = shown.lines().filter(|line| line.starts_with("jiffy-firmware: ")).collect();
    let [line] = said[..] else { anyhow::bail!("not one line of the firmware's: {shown:?}") };
    ensure!(line.contains(words), "{line:?} has no {words:?}");
    // The device turns a written n into the exit status 2n + 1.
    let status = ended.exit.and_then(|exit| exit.code());
    ensure!(status == Some(i32::from(code.0) * 2 + 1), "QEMU's exit status is {status:?}, after {line:?}");
    Ok(())
}
