//! `jiffy` with guests so small that every KVM runs them, a software-mode one too: on this host if it has any KVM,
//! else in a nested lab.

mod bad_disks;
mod bad_input;
mod guests;
mod terminal;
mod virtio;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::Trial;
use tests::{Guest, suite};
use xtask::ctx::Ctx;
use xtask::lab::Way;

fn main() -> ExitCode {
    obey_signals();
    suite::run(trials)
}

/// Undoes what shells do to commands in the background, which ignore SIGINT, and `nohup` to all, which ignore SIGHUP: so would
/// all programs tested here.
fn obey_signals() {
    for signal in [libc::SIGINT, libc::SIGHUP] {
        #[allow(unsafe_code, reason = "no crate in use sets the disposition of a signal")]
        // SAFETY: the default disposition runs no code of this process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL)
        };
    }
}

/// Stands for a run that this host gives no namespaces to.
fn without_namespaces(run: &Guest) -> Trial {
    let name = run.name().to_owned();
    suite::test(run.name(), move || {
        suite::note_no_namespaces(&name, bad_input::NAMESPACES);
        Ok(())
    })
}

fn trials(ctx: &Ctx, place: &Path) -> Result<Vec<Trial>> {
    let mut lab = suite::tiny_lab(ctx)?;
    let mut runs = guests::runs(ctx, &mut lab)?;
    runs.extend(virtio::runs(ctx, &mut lab, place)?);
    runs.extend(bad_input::runs(ctx, &mut lab, place)?);
    runs.extend(bad_disks::runs(&mut lab, place)?);
    let mut trials = terminal::trials(ctx, lab.way)?;
    if lab.way != Way::Native || suite::gives_namespaces(bad_input::NAMESPACES) {
        runs.extend(bad_input::lacking());
    } else {
        trials.extend(bad_input::lacking().iter().map(without_namespaces));
    }
    trials.extend(suite::guests(ctx, lab, runs)?);
    Ok(trials)
}
