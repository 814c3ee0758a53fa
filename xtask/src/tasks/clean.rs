//! `clean`: gives disk space back.

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use xtask::ctx::Ctx;

/// Remove what xtask made: downloads and target/dist
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// Removes the cache and the dist folder, and says how much each held.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    for folder in [ctx.cache.clone(), ctx.dist()] {
        let shown = folder.display();
        let bytes = size(&folder).with_context(|| format!("cannot read {shown}"))?;
        if !folder.exists() {
            println!("{shown}: not there");
        } else if args.dry_run {
            println!("{shown}: would free {}", HumanBytes(bytes));
        } else {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {shown}"))?;
            println!("{shown}: freed {}", HumanBytes(bytes));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes in the files below `path`; 0 when it is not there.
fn size(path: &Path) -> io::Result<u64> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}
