//! Steps on this host.

use std::sync::{Mutex, PoisonError};

use agent::{Input, Step};
use anyhow::Result;

use super::{Lab, Take};

/// Runs the steps in a temporary folder.
pub(super) fn run(lab: &Lab, steps: &[Step], take: &mut Take<'_>) -> Result<()> {
    let work = tempfile::tempdir()?;
    let plan = lab.plan(steps, |_, path| path.to_string_lossy().into_owned());
    let take = Mutex::new(take);
    agent::run(&plan, work.path(), &Input::default(), &|step, event| {
        take.lock().unwrap_or_else(PoisonError::into_inner)(step, event);
    })?;
    Ok(())
}
