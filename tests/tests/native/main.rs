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
    obey_sigint();
    let place = tempfile::tempdir().context("no temporary folder");
    let trials = place.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(|place| trials(place.path()));
    suite::run(trials)
}

/// Undoes what shells do to commands in the background, which ignore SIGINT and so would all programs tested here.
fn obey_sigint() {
    #[allow(unsafe_code, reason = "no crate in use sets the disposition of a signal")]
    // SAFETY: the default disposition runs no code of this process.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_DFL)
    };
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
