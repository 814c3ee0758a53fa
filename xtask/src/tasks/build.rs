//! `build`: what users take away, in `target/dist/`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use xtask::ctx::Ctx;

/// Build the parts that users take away into target/dist
#[derive(Debug, clap::Args)]
pub struct Args {}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds and prints sizes.
pub fn run(ctx: &Ctx, _: &Args) -> Result<ExitCode> {
    let step = ctx.step("Building jiffy");
    ctx.run(
        ctx.cargo()
            .args(["build", "--profile", "dist", "--target", TARGET, "-p", "vmm", "--bin", "jiffy"])
            .env(
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
                "-C target-feature=+crt-static -C relocation-model=static",
            ),
    )?;
    let from: PathBuf = ctx.target.join(TARGET).join("dist/jiffy");
    let to = ctx.dist().join("jiffy");
    fs::create_dir_all(ctx.dist()).with_context(|| format!("cannot create {}", ctx.dist().display()))?;
    let bytes = fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    drop(step);
    println!("{:<24} {}", to.display(), HumanBytes(bytes));
    Ok(ExitCode::SUCCESS)
}
