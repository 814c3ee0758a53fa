//! How the guests are run: by jiffy, whose timeline has their marks, and by QEMU's microvm, whose trace has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use abi::timeline::Mark;
use anyhow::{Context, Result, ensure};
use xtask::ctx::Ctx;
use xtask::{apt, built, guests, timeline};

use super::super::System;
use super::loads::Load;

/// The VMMs.
pub(super) struct Programs {
    jiffy: PathBuf,
    qemu: PathBuf,
}

impl Programs {
    /// Where they are.
    pub(super) fn find(ctx: &Ctx) -> Result<Self> {
        let qemu = apt::tool(ctx, "qemu-system-x86_64", "qemu-system-x86")?;
        Ok(Self { jiffy: built::JIFFY.path(ctx)?, qemu })
    }

    /// Runs a guest with its files in `place`: microseconds that its loops of requests take.
    pub(super) fn run(&self, ctx: &Ctx, load: &Load, system: System, place: &Path) -> Result<Vec<f64>> {
        let guest = guests::build(ctx, load.guest)?;
        let device = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| word.replace("PLACE", &place.to_string_lossy())).collect()
        };
        let marks = if system.is_jiffy() {
            self.jiffy(&guest, system, &device(load.jiffy))?
        } else {
            self.qemu(&guest, &device(load.qemu), load.says, place)?
        };
        let loops = 0..load.requests.len() as u8;
        let at = |code: u8| {
            let mark = marks.iter().find(|(mark, _)| *mark == Mark::USER.0 + code);
            mark.map(|(_, at)| at).with_context(|| format!("no mark {code}"))
        };
        loops.map(|number| Ok(at(2 * number + 1)? - at(2 * number)?)).collect()
    }

    /// The guest's marks, and the microsecond of each.
    fn jiffy(&self, guest: &Path, system: System, device: &[String]) -> Result<Vec<(u8, f64)>> {
        let mut command = Command::new(&self.jiffy);
        command.args(["run", "--memory", "32M", "--timeline", "json", "--kernel"]).arg(guest);
        let output = command.args(["--transport", &system.to_string()]).args(device).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
        let rows = timeline::read(&said)?;
        Ok(rows.iter().filter_map(|row| Some((row.mark()?.0, row.at_ns as f64 / 1e3))).collect())
    }

    /// The same under QEMU, where a serial port is at the marks' port, and a trace of its vCPU thread's has when it was written to.
    /// How the guest ended it does not hand on: the guest has to have said that all was well.
    fn qemu(&self, guest: &Path, device: &[String], says: &str, place: &Path) -> Result<Vec<(u8, f64)>> {
        let [said, trace] = ["said", "trace"].map(|name| place.join(name));
        let mut command = Command::new(&self.qemu);
        command.args(["-M", "microvm,acpi=off,pit=off,pic=off,rtc=off", "-bios", "qboot.rom", "-m", "32M"]);
        // As for starts: KVM in software mode has no MSR_IA32_ARCH_CAPABILITIES to write to.
        command.args([
            "-accel",
            "kvm",
            "-cpu",
            "host,-arch-capabilities",
            "-global",
            "virtio-mmio.force-legacy=off",
        ]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        command.args(["-chardev", "null,id=marks", "-device", "isa-serial,iobase=0x700,irq=3,chardev=marks"]);
        command.args(["-trace", "serial_write", "-msg", "timestamp=on", "-D"]).arg(&trace);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-serial"]);
        command.arg(format!("file:{}", said.display())).arg("-kernel").arg(guest).args(device);
        let output = command.output()?;
        let said = fs::read_to_string(said).unwrap_or_default();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(said.lines().any(|line| line == says), "{complaint}{said}");
        Ok(fs::read_to_string(trace)?.lines().filter_map(traced).collect())
    }
}

/// A mark in a line of QEMU's trace, `PID@SECONDS:serial_write write addr 0x00 val 0x80`, and its microsecond. What guests say is
/// below marks.
fn traced(line: &str) -> Option<(u8, f64)> {
    let (at, written) = line.split_once('@')?.1.split_once(":serial_write write addr 0x00 val 0x")?;
    let code = u8::from_str_radix(written, 16).ok().filter(|&code| code >= Mark::USER.0)?;
    Some((code, at.parse::<f64>().ok()? * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_in_a_trace() {
        let line = |value: &str| format!("7@12.000345:serial_write write addr 0x00 val 0x{value}");
        assert_eq!(traced(&line("81")), Some((0x81, 12_000_345.0)));
        assert_eq!(traced(&line("62")), None);
        assert_eq!(traced("7@12.000345:serial_write write addr 0x01 val 0x81"), None);
    }
}
