//! The build: unpack, patch, configure, check, make, keep.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::config::Config;
use super::{MODULES, Patch, Recipe, Tuned, Variant, compiler, kconfig, read};
use crate::cpio::Cpio;
use crate::ctx::{Ctx, Step};
use crate::{apt, cache, debs};

/// Programs that the build needs, and the packages that have them.
const TOOLS: [(&str, &str); 10] = [
    ("bc", "bc"),
    ("bison", "bison"),
    ("flex", "flex"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("lz4", "lz4"),
    ("make", "make"),
    ("patch", "patch"),
    ("perl", "perl"),
    ("xz", "xz-utils"),
];
/// The same for objtool, which is built on the way: the header that it includes.
const LIBELF: (&str, &str) = ("/usr/include/gelf.h", "libelf-dev");
/// The same where there are modules; it is in no user's `PATH` but root's.
const DEPMOD: (&str, &str) = ("/sbin/depmod", "kmod");
/// The folder for objects, in the source: then paths are relative, and neither the place of the cache nor who builds
/// shows in the kernel.
const OBJECTS: &str = "objects";
/// What else would show.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "jiffy"),
    ("KBUILD_BUILD_HOST", "jiffy"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
];

/// Builds the kernel into the cache. The tree stays in the cache until it is done.
pub(super) fn build(ctx: &Ctx, recipe: &Recipe) -> Result<Tuned> {
    let variant = recipe.variant;
    for (tool, package) in TOOLS {
        apt::tool(ctx, tool, package)?;
    }
    apt::file(ctx, LIBELF.0, LIBELF.1)?;
    if variant.has_modules() {
        apt::file(ctx, DEPMOD.0, DEPMOD.1)?;
    }
    // Only now it is sure that there is a compiler, whose version counts.
    let recipe = &Recipe { compiler: compiler(ctx), ..recipe.clone() };
    let key = recipe.key();
    let place = ctx.cache.join("kernel-build").join(&key);
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    let lock = File::create(place.join("lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", place.display()))?;
    if let Some(tuned) = recipe.cached(ctx) {
        return Ok(tuned);
    }
    let tree = place.join("linux");
    if !tree.is_dir() {
        unpack(ctx, recipe, &place.join("unfinished"))?;
        fs::rename(place.join("unfinished"), &tree)?;
    }
    let config = configure(ctx, recipe, &tree)?;
    make(ctx, &tree, variant)?;
    let folder = cache::folder(ctx, &format!("{}{key}", variant.folder()), |place| {
        let objects = tree.join(OBJECTS);
        let files = [("vmlinux", "vmlinux"), ("arch/x86/boot/bzImage", "bzImage"), (".config", "config")];
        for (from, to) in files {
            fs::copy(objects.join(from), place.join(to))
                .with_context(|| format!("the build left no {from}"))?;
        }
        if variant.has_modules() {
            fs::write(place.join(MODULES), modules(ctx, &tree)?)?;
        }
        let known = kconfig::read(&tree, &config).context("cannot read the kernel's Kconfig files")?;
        Ok(fs::write(place.join("options.json"), serde_json::to_vec(&known)?)?)
    })?;
    fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    Ok(Tuned { variant, key, folder })
}

/// All modules, without symbols that only a debugger reads, and what depmod says of them, as an initial RAM file system.
fn modules(ctx: &Ctx, tree: &Path) -> Result<Vec<u8>> {
    let _step = ctx.step("Packing the kernel's modules");
    let place = tempfile::tempdir()?;
    let mut install = kbuild(tree);
    install.args(["modules_install", "INSTALL_MOD_STRIP=1"]).arg(format!("DEPMOD={}", DEPMOD.0));
    ctx.run(install.env("INSTALL_MOD_PATH", place.path()))?;
    let mut cpio = Cpio::default();
    let mut folders = vec![place.path().join("lib/modules")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(place.path())?.to_string_lossy().into_owned();
                cpio.file(&name, fs::read(&path)?);
            }
        }
    }
    cpio.build()
}

/// Unpacks the source into `tree` and patches it.
fn unpack(ctx: &Ctx, recipe: &Recipe, tree: &Path) -> Result<()> {
    let record = &recipe.source.record;
    let package = debs::pinned(ctx, &recipe.source.suite, record).with_context(|| {
        format!(
            "cannot get {} {}; if Debian has a newer version, pin that one in xtask/kernel/source.json",
            record.package, record.version
        )
    })?;
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    fs::create_dir_all(tree)?;
    let archive = package.join(format!("usr/src/{}.tar.xz", record.package));
    let step = ctx.step(format!("Unpacking the source of {}", record.package));
    let mut tar = Command::new("tar");
    ctx.run(
        tar.arg("--extract")
            .arg("--file")
            .arg(archive)
            .args(["--strip-components=1", "--directory"])
            .arg(tree),
    )?;
    for patch in &recipe.patches {
        step.message(format!("Applying {}", patch.name));
        if recipe.trial && !fits(tree, patch)? {
            step.line(&format!("Left out: {} does not fit {}", patch.name, record.version));
            continue;
        }
        apply(tree, patch, &record.version)?;
    }
    Ok(())
}

/// Whether a patch fits to the line.
fn fits(tree: &Path, patch: &Patch) -> Result<bool> {
    Ok(run_patch(tree, patch, &["--dry-run"])?.status.success())
}

/// Applies a patch; it has to fit to the line.
fn apply(tree: &Path, patch: &Patch, version: &str) -> Result<()> {
    let output = run_patch(tree, patch, &[])?;
    ensure!(
        output.status.success(),
        "xtask/kernel/patches/{} does not fit the kernel's source {version}; make it anew for that, or remove it:\n{}",
        patch.name,
        String::from_utf8_lossy(&output.stdout).trim_end()
    );
    Ok(())
}

fn run_patch(tree: &Path, patch: &Patch, more: &[&str]) -> Result<Output> {
    let mut command = Command::new("patch");
    command.args(["--strip=1", "--forward", "--fuzz=0", "--batch"]).args(more).current_dir(tree);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run patch")?;
    // What patch does not read is seen by its status.
    let _ = child.stdin.take().context("patch has no input")?.write_all(patch.text.as_bytes());
    Ok(child.wait_with_output()?)
}

/// Makes the configuration and checks that it is as wished.
fn configure(ctx: &Ctx, recipe: &Recipe, tree: &Path) -> Result<Config> {
    let objects = tree.join(OBJECTS);
    fs::create_dir_all(&objects)?;
    let wishes = objects.join("wishes.config");
    cache::write(&wishes, recipe.fragment.lines().as_bytes())?;
    let step = ctx.step(format!("Configuring the kernel by {}", recipe.variant.fragments().join(" and ")));
    ctx.run(kbuild(tree).arg("allnoconfig").env("KCONFIG_ALLCONFIG", &wishes))?;
    let config = Config::parse(&read(&objects.join(".config"))?)?;
    match recipe.fragment.check(&config) {
        Err(denied) if recipe.trial => step.line(&denied.to_string()),
        checked => checked?,
    }
    Ok(config)
}

/// `make` in the tree, behind all else that the machine does.
fn kbuild(tree: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19", "make"]).arg(format!("O={OBJECTS}")).current_dir(tree).envs(ENVIRONMENT);
    command
}

/// Compiles and links.
fn make(ctx: &Ctx, tree: &Path, variant: Variant) -> Result<()> {
    let made = commands(&tree.join(OBJECTS))?;
    let bar = ctx.bar(format!("Building the kernel {variant}"), variant.lines().max(made));
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut command = kbuild(tree);
    command.arg(format!("--jobs={jobs}")).args(["vmlinux", "bzImage"]);
    command.args(variant.has_modules().then_some("modules"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run make")?;
    let mut stderr = child.stderr.take().context("make has no standard error")?;
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text)
    });
    let stdout = child.stdout.take().context("make has no output")?;
    let last = follow(BufReader::new(stdout), made, &bar, ctx.verbose)?;
    let status = child.wait()?;
    let complaints = complaints.join().ok().context("no standard error of make")??;
    ensure!(
        status.success(),
        "the kernel's build failed ({status}); what is made stays for the next try. It ended with:\n{}\n{}",
        last.join("\n"),
        String::from_utf8_lossy(&complaints).trim_end()
    );
    Ok(())
}

/// Follows make's output, a line for each thing that it makes; returns the last lines.
fn follow(from: impl BufRead, made: u64, bar: &Step, verbose: bool) -> Result<Vec<String>> {
    const KEPT: usize = 5;
    let mut last = VecDeque::new();
    let mut count = made;
    for line in from.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if line.starts_with("  ") {
            count += 1;
            bar.advance(count);
        }
        if verbose {
            bar.line(&line);
        }
        last.push_back(line);
        if last.len() > KEPT {
            last.pop_front();
        }
    }
    Ok(last.into())
}

/// How much of it is made: kbuild leaves the command beside everything that it made.
fn commands(folder: &Path) -> Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += commands(&entry.path())?;
        } else if entry.file_name().to_string_lossy().ends_with(".cmd") {
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_fits_or_the_error_names_it() {
        if apt::find("patch").is_none() {
            return crate::skip::note("a_patch_fits_or_the_error_names_it", "patch is not installed");
        }
        let tree = tempfile::tempdir().unwrap();
        let file = tree.path().join("file");
        fs::write(&file, "one\ntwo\nthree\n").unwrap();
        let text = "Why.\n\n--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n".to_owned();
        let patch = Patch { name: "0001-digits.patch".to_owned(), text };
        assert!(fits(tree.path(), &patch).unwrap());
        apply(tree.path(), &patch, "6.0").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\n2\nthree\n");
        assert!(!fits(tree.path(), &patch).unwrap());
        let said = apply(tree.path(), &patch, "6.0").unwrap_err().to_string();
        assert!(
            said.starts_with("xtask/kernel/patches/0001-digits.patch does not fit the kernel's source 6.0")
        );
    }

    #[test]
    fn counts_what_is_made() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("fs")).unwrap();
        for name in [".a.o.cmd", "a.o", "fs/.b.o.cmd"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(commands(folder.path()).unwrap(), 2);
    }
}
