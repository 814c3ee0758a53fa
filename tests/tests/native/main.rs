//! `jiffy` with guests so small that every KVM runs them, a software-mode one too: on this host if it has any KVM,
//! else in a nested lab.

mod bad_input;
mod guests;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use libtest_mimic::Trial;
use tests::suite;

fn main() -> ExitCode {
    let place = tempfile::tempdir().context("no temporary folder");
    let trials = place.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(|place| trials(place.path()));
    suite::run(trials)
}

fn trials(place: &Path) -> Result<Vec<Trial>> {
    let ctx = suite::context()?;
    let mut lab = suite::tiny_lab(&ctx)?;
    let mut runs = guests::runs(&ctx, &mut lab)?;
    runs.extend(bad_input::runs(&ctx, &mut lab, place)?);
    let mut trials = terminal::trials(&ctx, lab.way)?;
    trials.extend(suite::guests(&ctx, lab, runs)?);
    Ok(trials)
}
