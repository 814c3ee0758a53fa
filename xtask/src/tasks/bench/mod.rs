//! `bench`: figures, side by side and made in one run. No wall time is asserted; see `docs/measuring.md`.

use std::process::ExitCode;

use anyhow::Result;
use xtask::ctx::Ctx;

mod boot;
mod firmware;
mod io;
mod start;

/// Measure Jiffy beside what it is compared with
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    Boot(boot::Args),
    Firmware(firmware::Args),
    Io(io::Args),
    Start(start::Args),
}

/// Runs one bench.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    match &args.bench {
        Bench::Boot(args) => boot::run(ctx, args),
        Bench::Firmware(args) => firmware::run(ctx, args),
        Bench::Io(args) => io::run(ctx, args),
        Bench::Start(args) => start::run(ctx, args),
    }
}
