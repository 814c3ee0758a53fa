//! Where the parts are once they are built.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::ctx::Ctx;

/// The only target that anything is built for.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A part that is built: the name of its file, and the variable that says where else it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its file in `target/dist`.
    pub file: &'static str,
    /// Cargo's profile for it.
    pub profile: &'static str,
    /// A variable whose value is used in place of the file in `target/dist`, for suites that test what was
    /// built elsewhere.
    pub variable: &'static str,
}

/// The VMM.
pub const JIFFY: Part = Part { file: "jiffy", profile: "jiffy", variable: "JIFFY_BIN" };
/// PID 1 of guests and of the lab.
pub const INIT: Part = Part { file: "jiffy-init", profile: "init", variable: "JIFFY_INIT" };
/// The ROM.
pub const FIRMWARE: Part =
    Part { file: "jiffy-firmware.rom", profile: "firmware", variable: "JIFFY_FIRMWARE" };

impl Part {
    /// Where it is.
    pub fn path(self, ctx: &Ctx) -> Result<PathBuf> {
        let given = env::var_os(self.variable).filter(|value| !value.is_empty());
        let path = given.map_or_else(|| ctx.dist().join(self.file), PathBuf::from);
        ensure!(path.is_file(), "{} is not there; build it: cargo xtask build", path.display());
        Ok(path)
    }

    /// The same program as cargo leaves it, with the names of its functions.
    pub fn symbols(self, ctx: &Ctx) -> Result<PathBuf> {
        let given = env::var_os(self.variable).filter(|value| !value.is_empty());
        let path =
            given.map_or_else(|| ctx.target.join(TARGET).join(self.profile).join(self.file), PathBuf::from);
        ensure!(path.is_file(), "{} is not there; build it: cargo xtask build", path.display());
        Ok(path)
    }

    /// Its bytes.
    pub fn read(self, ctx: &Ctx) -> Result<Vec<u8>> {
        let path = self.path(ctx)?;
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// Where the lab's agent is, as cargo leaves it; it is no part that users take away.
#[must_use]
pub fn agent(ctx: &Ctx) -> PathBuf {
    ctx.target.join(TARGET).join("jiffy/lab-agent")
}

/// Where a program of the package `tools` is, as cargo leaves it.
#[must_use]
pub fn tool(ctx: &Ctx, name: &str) -> PathBuf {
    ctx.target.join(TARGET).join("release").join(name)
}

/// Where `wire` is, by which tests talk from a guest to the lab; as the agent.
#[must_use]
pub fn wire(ctx: &Ctx) -> PathBuf {
    ctx.target.join(TARGET).join("jiffy/wire")
}

/// Where `pauser` is, which runs a guest as the VMM does and pauses it; as the agent.
#[must_use]
pub fn pauser(ctx: &Ctx) -> PathBuf {
    ctx.target.join(TARGET).join("jiffy/pauser")
}

/// The ELF file that the ROM is cut from.
#[must_use]
pub fn firmware_elf(ctx: &Ctx) -> PathBuf {
    ctx.target.join(TARGET).join("firmware/jiffy-firmware")
}

/// A unikernel of `tests/guests/unikernel`.
pub fn unikernel(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    let path = ctx.target.join(TARGET).join("firmware").join(format!("unikernel-{name}"));
    ensure!(path.is_file(), "{} is not there; `cargo xtask test` builds it", path.display());
    Ok(path)
}
