//! Jiffy's own guest kernel, if it has been built: no CPU goes without what it needs against leaks.

mod mitigations;
mod qmp;

use std::process::ExitCode;

use anyhow::Result;
use tests::suite;
use xtask::tuned::{Recipe, Tuned};

fn main() -> ExitCode {
    match fast() {
        Ok(None) => {
            eprintln!("without the kernel `fast`, which has not been built (cargo xtask kernel build)");
            ExitCode::SUCCESS
        }
        fast => suite::run(|ctx, place| match fast? {
            Some(fast) => mitigations::trials(ctx, &fast, place),
            None => Ok(Vec::new()),
        }),
    }
}

fn fast() -> Result<Option<Tuned>> {
    let ctx = suite::context()?;
    Ok(Recipe::read(&ctx)?.cached(&ctx))
}
