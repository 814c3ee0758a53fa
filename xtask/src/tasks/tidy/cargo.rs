//! The checks that cargo does: format, lints, documentation.

use anyhow::{Context, Result};
use xtask::ctx::{Ctx, show};

use super::Finding;

/// A run of cargo: its arguments, and what is set in its environment.
pub struct Run {
    args: &'static [&'static str],
    env: Option<(&'static str, &'static str)>,
    mend: &'static str,
}

/// The checks by name.
pub fn checks() -> Vec<(&'static str, Vec<Run>)> {
    let lints = "do what it says, or allow the lint there with a reason";
    let clippy = |args| Run { args, env: None, mend: lints };
    vec![
        (
            "format",
            vec![Run { args: &["fmt", "--all", "--check"], env: None, mend: "cargo xtask tidy --fix" }],
        ),
        (
            "lints",
            vec![
                clippy(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
                // Without a standard library, these are left out of plain builds; a profile that aborts spares them
                // its unwinding. It is that of the other lints else, so that they share what is built for lints.
                clippy(&[
                    "clippy",
                    "-p",
                    "guest-init",
                    "-p",
                    "firmware",
                    "--bins",
                    "--features",
                    "guest-init/bin,firmware/bin",
                    "--config",
                    "profile.dev.panic='abort'",
                    "--",
                    "-D",
                    "warnings",
                ]),
                // All of the workspace, since then no other package is checked again.
                clippy(&[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--features",
                    "fuzz/planted",
                    "--",
                    "-D",
                    "warnings",
                ]),
            ],
        ),
        (
            "documentation",
            vec![Run {
                args: &["doc", "--workspace", "--no-deps"],
                env: Some(("RUSTDOCFLAGS", "-D warnings")),
                mend: "do what it says",
            }],
        ),
    ]
}

/// Runs cargo; what it says becomes the findings, as it is: it names file, line and remedy.
pub fn check(ctx: &Ctx, runs: &[Run]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for run in runs {
        let mut command = ctx.cargo();
        // rustfmt colours its differences even when no terminal shows them.
        command.args(run.args).envs(run.env).env("TERM", "dumb");
        let output = command.output().with_context(|| format!("cannot run {}", show(&command)))?;
        if !output.status.success() {
            let said = [&output.stdout[..], &output.stderr[..]].concat();
            findings.push(Finding::new(
                show(&command),
                format!("\n{}", String::from_utf8_lossy(&said)),
                run.mend,
            ));
        }
    }
    Ok(findings)
}
