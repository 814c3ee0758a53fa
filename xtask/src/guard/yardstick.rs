//! Figures that no change of ours touches, made in the same way as ours: where compiler, QEMU or Debian's kernel are not
//! those of the budgets, ours are held against them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use abi::init_config::Directive;
use anyhow::{Context, Result, ensure};

use super::budget::Yardsticks;
use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::lab::qemu::{Input, Machine};
use crate::lab::{self, Lab, Speed, Way};
use crate::{built, initramfs};

const SPEED: Speed = Speed::Exact { seed: 1 };
/// How often `floor` is started; the least counts.
const STARTS: usize = 5;

/// Measures all; `floor` is that program's file.
pub fn measure(ctx: &Ctx, floor: &Path) -> Result<Yardsticks> {
    Ok(Yardsticks { floor: start_floor(ctx, floor)?, microvm: boot_microvm(ctx)? })
}

/// `floor` with 128 MiB, in the nested lab: CPU time to the mark, which it says as `mark NS CPU_NS`.
fn start_floor(ctx: &Ctx, floor: &Path) -> Result<u64> {
    let mut lab = Lab::new(Way::Nested(SPEED));
    lab.file("floor", floor);
    let report = lab.run(ctx, &vec![lab::step("floor", ["{floor}", "128"]); STARTS])?;
    let read = |step: &lab::StepReport| {
        let said = String::from_utf8_lossy(&step.stdout).into_owned();
        let cpu = said.strip_prefix("mark ").and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        cpu.with_context(|| format!("floor said: {said}{}", String::from_utf8_lossy(&step.stderr)))
    };
    let all = report.steps.iter().map(read).collect::<Result<Vec<u64>>>()?;
    all.into_iter().min().context("floor was not started")
}

/// Debian's kernel with 512 MiB on QEMU's microvm: init's greeting says how long ago the kernel's clock began, which
/// advances by a nanosecond with each instruction.
fn boot_microvm(ctx: &Ctx) -> Result<u64> {
    let place = tempfile::tempdir()?;
    let initrd = place.path().join("initrd");
    let config = [Directive::Hostname("guest"), Directive::Exec("/init"), Directive::Arg("greet")];
    fs::write(&initrd, initramfs::with_init(built::INIT.read(ctx)?, &config)?.build()?)?;
    // With ACPI, QEMU's microvm has no timer by which a Linux under emulation could calibrate its clock.
    let cmdline = "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t";
    let kernel = Kernel::debian(ctx)?.vmlinux(ctx)?;
    let mut machine = Machine::new("microvm,acpi=off", kernel, initrd, cmdline);
    machine.speed = SPEED;
    let ended = machine.boot(ctx, Input::None, Duration::from_secs(300), |_| true)?;
    let said = String::from_utf8_lossy(&ended.console);
    greeted(&said).with_context(|| format!("QEMU's microvm: no greeting in: {said}"))
}

/// Reads `here  1234.5 ms after the kernel was started`.
fn greeted(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.trim_start().strip_prefix("here "))?;
    let (whole, tenth) = line.trim_start().split_once(" ms after the kernel")?.0.split_once('.')?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + tenth.parse::<u64>().ok()? * 100_000)
}

/// Whether `ours` beside `yardstick` is what it was, within `percent`; the text says how it was and is.
pub fn ratio(what: &str, before: (u64, u64), after: (u64, u64), percent: f64) -> Result<(bool, String)> {
    ensure!(before.1 > 0 && after.1 > 0, "{what}: the yardstick has no figure");
    let [was, is] = [before, after].map(|(ours, yardstick)| ours as f64 / yardstick as f64);
    let by = (is / was - 1.0) * 100.0;
    Ok((by <= percent, format!("{what}: {was:.4} before, {is:.4} now ({by:+.2} %)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_is_read() {
        let said = "  memory   489 MiB, 461 MiB of it free\r\n  here     1302.4 ms after the kernel was started\r\n\r\n";
        assert_eq!(greeted(said), Some(1_302_400_000));
        assert_eq!(greeted("  here     12.4 ms after jiffy was started\n"), None);
    }

    #[test]
    fn only_worse_ratios_fail() {
        let is_good = |after| ratio("x", (1000, 500), after, 1.0).unwrap().0;
        assert!(is_good((2000, 1000)) && is_good((2010, 1000)) && is_good((1000, 1000)));
        assert!(!is_good((2030, 1000)));
        assert!(ratio("x", (1, 0), (1, 1), 1.0).is_err());
    }
}
