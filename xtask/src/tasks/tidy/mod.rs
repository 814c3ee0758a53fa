//! `tidy`: what can be said about the tree without running it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};
use xtask::ctx::Ctx;

mod cargo;
mod dependencies;
mod directions;
mod hosts;
mod licences;
mod sizes;
mod source;
mod unsafety;

/// Check format, lints, docs, licences, sizes, unsafe code, module directions and dependencies
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Format the code first
    #[arg(long)]
    fix: bool,
}

/// A check that only reads.
type Check = fn(&Tree) -> Vec<Finding>;

/// Runs every check, cheap ones first, and prints all that was found.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    if args.fix {
        ctx.run(ctx.cargo().args(["fmt", "--all"]))?;
    }
    let tree = Tree::read(ctx)?;
    let checks: [(&str, Check); 6] = [
        ("file sizes", sizes::check),
        ("unsafe code", unsafety::check),
        ("module directions", directions::check),
        ("dependencies", dependencies::check),
        ("licences", licences::check),
        ("host names", hosts::check),
    ];
    let mut failed = false;
    for (name, check) in checks {
        failed |= report(name, &check(&tree));
    }
    for (name, commands) in cargo::checks() {
        let step = ctx.step(format!("Checking {name}"));
        let findings = cargo::check(ctx, &commands)?;
        drop(step);
        failed |= report(name, &findings);
    }
    println!("{}", sizes::summary(&tree));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints what a check found; true when something has to be mended.
fn report(name: &str, findings: &[Finding]) -> bool {
    let failed = findings.iter().any(|f| !f.warning);
    println!("tidy: {name:<18} {}", if failed { "FAILED" } else { "ok" });
    for finding in findings {
        println!("{finding}");
    }
    failed
}

/// Something to be mended.
#[derive(Debug)]
struct Finding {
    /// File, with a line where there is one.
    place: String,
    what: String,
    mend: String,
    /// Said, but no failure.
    warning: bool,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into(), mend: mend.into(), warning: false }
    }

    fn at(source: &Source, line: usize, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(format!("{}:{line}", source.path.display()), what, mend)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "warning: " } else { "" };
        write!(f, "{}: {kind}{}\n    mend: {}", self.place, self.what, self.mend)
    }
}

/// What the checks read.
struct Tree {
    root: PathBuf,
    /// All Rust files.
    sources: Vec<Source>,
    /// All other text files.
    texts: Vec<Source>,
    metadata: Metadata,
}

/// One file.
struct Source {
    /// Relative to the workspace's root.
    path: PathBuf,
    text: String,
    /// The text without comments and literals; empty for files that are not Rust.
    code: String,
}

impl Source {
    fn new(path: PathBuf, text: String) -> Self {
        let rust = path.extension().is_some_and(|e| e == "rs");
        let code = if rust { source::code_only(&text) } else { String::new() };
        Self { path, text, code }
    }
}

impl Tree {
    fn read(ctx: &Ctx) -> Result<Self> {
        let metadata = MetadataCommand::new().current_dir(&ctx.root).exec().context("cargo metadata")?;
        let mut files = Vec::new();
        read_folder(&ctx.root, &ctx.root, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let (sources, texts) = files.into_iter().partition(|f| f.path.extension().is_some_and(|e| e == "rs"));
        Ok(Self { root: ctx.root.clone(), sources, texts, metadata })
    }
}

/// All text files below `folder`, except what cargo and git keep there for themselves.
fn read_folder(root: &Path, folder: &Path, files: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let relative = path.strip_prefix(root)?;
        if relative == Path::new("target") || relative == Path::new(".git") {
            continue;
        }
        if path.is_dir() {
            read_folder(root, &path, files)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            files.push(Source::new(relative.to_owned(), text));
        }
    }
    Ok(())
}
