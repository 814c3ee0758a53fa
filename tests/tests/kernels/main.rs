//! Jiffy's own guest kernels, each if it has been built: no CPU goes without what it needs against leaks, modules are loaded,
//! and `cargo xtask run` gives them devices.

mod mitigations;
mod modules;
mod qmp;
mod run;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::Trial;
use tests::suite;
use xtask::ctx::Ctx;
use xtask::tuned::{Recipe, Tuned, Variant};

fn main() -> ExitCode {
    match built() {
        Ok(built) if built.is_empty() => ExitCode::SUCCESS,
        built => suite::run(|ctx, place| trials(ctx, place, &built?)),
    }
}

fn built() -> Result<Vec<Tuned>> {
    let ctx = suite::context()?;
    let mut built = Vec::new();
    for variant in Variant::ALL {
        match Recipe::read(&ctx, variant)?.cached(&ctx) {
            Some(tuned) => built.push(tuned),
            None => eprintln!(
                "without the kernel `{variant}`, which has not been built (cargo xtask kernel build --variant {variant})"
            ),
        }
    }
    Ok(built)
}

fn trials(ctx: &Ctx, place: &Path, built: &[Tuned]) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for tuned in built {
        if tuned.variant == Variant::Fast {
            trials.extend(run::trials(place));
        }
        trials.extend(mitigations::trials(ctx, tuned, place)?);
        if let Some(modules) = tuned.modules() {
            trials.extend(modules::trials(ctx, tuned, &modules, place)?);
        }
    }
    Ok(trials)
}
