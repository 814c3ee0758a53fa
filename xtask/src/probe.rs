//! What this host's KVM is worth.

use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::built;
use crate::ctx::Ctx;

/// How much of KVM there is, as `jiffy probe` finds out by running a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything.
    Hardware,
    /// Each instruction is emulated; no SSE, so that tiny guests run and Linux does not.
    Software,
    /// Nothing.
    None,
}

/// What `jiffy probe` says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Probe {
    /// How much there is.
    pub level: Level,
    /// Why it is not more.
    pub reason: Option<String>,
}

/// Has `jiffy`, which must be built, run its probe guest.
pub fn probe(ctx: &Ctx) -> Result<Probe> {
    let said = ctx.read(Command::new(built::JIFFY.path(ctx)?).args(["probe", "--json"]))?;
    serde_json::from_str(&said).with_context(|| format!("`jiffy probe --json` said {said:?}"))
}
