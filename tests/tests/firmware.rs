//! Jiffy's ROM under QEMU's machines, in place of their own firmware.

use std::process::ExitCode;
use std::time::Duration;

use abi::firmware::Code;
use abi::ports;
use anyhow::{Result, ensure};
use tests::suite;
use xtask::built;
use xtask::lab::qemu::{Input, Machine};

/// Long enough for any machine on a slow and busy host.
const DEADLINE: Duration = Duration::from_secs(60);
const MACHINES: [&str; 3] = ["microvm", "q35", "pc"];
/// The least that QEMU has for 64-bit mode, and all that it has.
const PROCESSORS: [&str; 2] = ["qemu64", "max"];
/// What the ROM says when it has come to its end.
const DONE: &str = "jiffy-firmware: nothing to boot";

fn main() -> ExitCode {
    let pairs = MACHINES.iter().flat_map(|&machine| PROCESSORS.map(|processor| (machine, processor)));
    let trial = |(machine, processor): (&'static str, &'static str)| {
        suite::test(&format!("firmware::{machine}_{processor}"), move || boots(machine, processor))
    };
    suite::run(Ok(pairs.map(trial).collect()))
}

/// It has nothing to boot, says so, and ends QEMU by its debug-exit device.
fn boots(machine: &str, processor: &str) -> Result<()> {
    let ctx = suite::context()?;
    let mut machine = Machine::with_firmware(machine, built::FIRMWARE.path(&ctx)?);
    machine.cpu = Some(processor.to_owned());
    machine.args = vec!["-device".to_owned(), format!("isa-debug-exit,iobase={:#x}", ports::DEBUG_EXIT)];
    let ended = machine.boot(&ctx, Input::None, DEADLINE, |_| true)?;
    let shown = String::from_utf8_lossy(&ended.console);
    let line = shown.lines().find(|line| line.starts_with(DONE));
    ensure!(line.is_some(), "it never said that it is there: {shown:?}");
    // The device turns a written n into the exit status 2n + 1.
    let code = i32::from(Code::NOTHING_TO_BOOT.0) * 2 + 1;
    ensure!(ended.exit.and_then(|exit| exit.code()) == Some(code), "it did not end QEMU with its own code");
    Ok(())
}
