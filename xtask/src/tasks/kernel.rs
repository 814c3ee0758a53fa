//! `kernel`: guest kernels in the cache.

use std::process::ExitCode;

use anyhow::Result;
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;

/// Fetch guest kernels, and list those that are there
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Get Debian's newest kernel for virtual machines, as apt's lists have it
    Fetch,
    /// List the kernels in the cache
    List,
}

/// Fetches or lists.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    let kernel = match args.what {
        What::Fetch => Some(Kernel::newest_debian(ctx)?),
        What::List => Kernel::cached_debian(ctx)?,
    };
    match kernel {
        Some(kernel) => {
            let record = &kernel.package.record;
            println!("debian  {}  {} {}", kernel.release, record.package, record.version);
            println!("        {}", kernel.image.display());
        }
        None => println!("none yet; to get one: cargo xtask kernel fetch"),
    }
    Ok(ExitCode::SUCCESS)
}
