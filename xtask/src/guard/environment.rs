//! What figures are made with: figures of another QEMU, compiler or kernel say little about a change of ours.

use std::fmt::{self, Write as _};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::lab::qemu;
use crate::tuned::{Recipe, Variant};

/// Versions and hashes of all that is not in the tree and counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MadeWith {
    /// QEMU's version.
    pub qemu: String,
    /// The compiler's.
    pub rustc: String,
    /// Debian's kernel, which is the lab's and a guest's: package, version and the package's hash.
    pub debian: String,
    /// Jiffy's own kernel: where it is from, and the key of all that it is made from.
    pub fast: String,
}

impl MadeWith {
    /// What is here.
    pub fn here(ctx: &Ctx) -> Result<Self> {
        let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
        let qemu = first(ctx.read(Command::new(qemu::find(ctx)?).arg("--version"))?);
        let rustc = first(ctx.read(Command::new("rustc").arg("--version").current_dir(&ctx.root))?);
        let record = Kernel::debian(ctx)?.package.record;
        let hash = record.sha256.get(..16).context("the hash of Debian's kernel is too short")?;
        let recipe = Recipe::read(ctx, Variant::Fast)?;
        Ok(Self {
            qemu,
            rustc,
            debian: format!("{} {} {hash}", record.package, record.version),
            fast: format!("{} {}", recipe.origin(), recipe.key()),
        })
    }

    /// In lines: what `other` was made with that this was not.
    #[must_use]
    pub fn differences(&self, other: &Self) -> String {
        let Self { qemu, rustc, debian, fast } = self;
        let pairs =
            [(qemu, &other.qemu), (rustc, &other.rustc), (debian, &other.debian), (fast, &other.fast)];
        let mut text = String::new();
        for (here, there) in pairs.into_iter().filter(|(here, there)| here != there) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  budgets: {there}\n  here:    {here}");
        }
        text
    }
}

impl fmt::Display for MadeWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { qemu, rustc, debian, fast } = self;
        for (name, value) in [("qemu", qemu), ("rustc", rustc), ("debian", debian), ("fast", fast)] {
            writeln!(f, "{name:<6} = {value:?}")?;
        }
        Ok(())
    }
}
