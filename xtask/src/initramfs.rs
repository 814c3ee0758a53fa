//! Initial RAM file systems with `jiffy-init` as PID 1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use abi::init_config::{self, Directive};
use anyhow::{Context, Result, ensure};

use crate::cpio::{Cpio, Entry};
use crate::ctx::Ctx;
use crate::debs;
use crate::kernel::{Kernel, Module};

/// An archive whose `/init` is `init`, told by `config` what to do.
pub fn with_init(init: Vec<u8>, config: &[Directive<'_>]) -> Result<Cpio> {
    let text: String = config.iter().map(ToString::to_string).collect();
    ensure!(text.len() <= init_config::MAX_LEN, "init's configuration has {} bytes: too long", text.len());
    let mut cpio = Cpio::default();
    cpio.program("init", init).file(init_config::PATH, text);
    Ok(cpio)
}

/// Adds modules and what they depend on; init finds them by `modules.dep`. They are loaded if init's configuration
/// names them.
pub fn add_modules(cpio: &mut Cpio, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let modules = kernel.modules(names)?;
    let folder = format!("lib/modules/{}", kernel.release);
    cpio.file(&format!("{folder}/modules.dep"), modules_dep(&modules));
    for module in modules {
        cpio.file(&format!("{folder}/{}.ko", module.name), module.elf);
    }
    Ok(())
}

/// Debian's busybox, from the cache if it is there.
pub fn busybox(ctx: &Ctx) -> Result<PathBuf> {
    let package = debs::get(ctx, "busybox-static", None)?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| package.path.join(place));
    places.into_iter().find(|path| path.is_file()).context("package busybox-static has no busybox")
}

/// Adds [`busybox`], with a link for each of its commands.
pub fn add_busybox(cpio: &mut Cpio, ctx: &Ctx) -> Result<()> {
    let busybox = busybox(ctx)?;
    let program = fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    cpio.program("bin/busybox", program);
    // It is static: it says here what it can do there.
    for command in ctx.read(Command::new(&busybox).arg("--list"))?.lines() {
        if command != "busybox" {
            cpio.add(&format!("bin/{command}"), Entry::Symlink("busybox".to_owned()));
        }
    }
    Ok(())
}

/// The archive's bytes, and behind them those of the archive `modules`, if there is one: all modules of a kernel. The
/// kernel finds what loads those that it asks for itself: busybox.
pub fn build(mut cpio: Cpio, modules: Option<&Path>) -> Result<Vec<u8>> {
    let Some(modules) = modules else { return cpio.build() };
    cpio.add("sbin/modprobe", Entry::Symlink("/bin/modprobe".to_owned()));
    let mut archive = cpio.build()?;
    archive.extend(fs::read(modules).with_context(|| format!("cannot read {}", modules.display()))?);
    Ok(archive)
}

/// What depends on what, in the form of `modules.dep.5`: all that a module needs, to be loaded from right to left.
fn modules_dep(modules: &[Module]) -> String {
    let line = |module: &Module| {
        let needs: String = module.needs.iter().rev().map(|name| format!(" {name}.ko")).collect();
        format!("{}.ko:{needs}\n", module.name)
    };
    modules.iter().map(line).collect()
}
