//! Jiffy's own guest kernel, `fast`: Debian's source, the fragment and the patches in `xtask/kernel`. It is built once
//! for each combination of these and of the compiler, and kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::ctx::Ctx;
use crate::debs::{self, Package, Record};
use crate::kernel::Kernel;

mod build;
pub mod config;
mod expression;
pub mod kconfig;
pub mod why;

use config::Fragment;

/// What its folders in the cache start with; the key follows.
const FOLDER: &str = "kernel-fast_";

/// The kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuned {
    /// What it was made from, as [`Recipe::key`].
    pub key: String,
    folder: PathBuf,
}

impl Tuned {
    /// The ELF file, for the 64-bit protocol and PVH.
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The `bzImage`; it has the relocations by which its addresses can be made random.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join("bzImage")
    }

    /// The final configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    /// What Kconfig says of the options that are on: [`kconfig::Known`] as JSON.
    #[must_use]
    pub fn known(&self) -> PathBuf {
        self.folder.join("options.json")
    }

    /// All that are in the cache, in no particular order.
    pub fn all(ctx: &Ctx) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        if ctx.cache.is_dir() {
            for entry in fs::read_dir(&ctx.cache)? {
                let folder = entry?.path();
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                if let Some(key) = name.strip_prefix(FOLDER) {
                    all.push(Self { key: key.to_owned(), folder: folder.clone() });
                }
            }
        }
        Ok(all)
    }
}

/// The source that is pinned in `xtask/kernel/source.json`.
#[derive(Clone, Debug, Deserialize)]
struct Source {
    /// The suite of Debian that has the package.
    suite: String,
    /// The package `linux-source-…`.
    record: Record,
    /// The package with Debian's own kernel of the same version.
    debian: Record,
    /// How many lines make prints for a build from nothing, about: for the progress bar.
    lines: u64,
}

impl Source {
    fn read(ctx: &Ctx) -> Result<Self> {
        let text = read(&ctx.root.join("xtask/kernel/source.json"))?;
        serde_json::from_str(&text).context("xtask/kernel/source.json is not as it should be")
    }
}

/// Debian's own kernel of the version that `fast` is made from, to compare it with; from the cache if it is there.
pub fn debian(ctx: &Ctx) -> Result<Kernel> {
    let Source { suite, debian: record, .. } = Source::read(ctx)?;
    let path = debs::pinned(ctx, &suite, &record)?;
    Kernel::in_package(Package { record, path })
}

/// A patch in `xtask/kernel/patches`.
#[derive(Clone, Debug)]
struct Patch {
    name: String,
    text: String,
}

/// All that the kernel is made from.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What is wished of its configuration.
    pub fragment: Fragment,
    source: Source,
    patches: Vec<Patch>,
    compiler: String,
}

impl Recipe {
    /// Reads what is in the tree, and asks the compiler for its version.
    pub fn read(ctx: &Ctx) -> Result<Self> {
        let folder = ctx.root.join("xtask/kernel");
        let source = Source::read(ctx)?;
        let fragment = Fragment::parse(&read(&Fragment::path(ctx))?)?;
        let mut patches = Vec::new();
        for entry in fs::read_dir(folder.join("patches")).context("cannot list xtask/kernel/patches")? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            patches.push(Patch { name, text: read(&path)? });
        }
        patches.sort_by(|one, other| one.name.cmp(&other.name));
        // Where there is no compiler, no kernel is built, and none is found that another compiler built.
        let said = ctx.read(Command::new("gcc").arg("--version")).unwrap_or_default();
        let compiler = said.lines().next().unwrap_or("none").to_owned();
        Ok(Self { fragment, source, patches, compiler })
    }

    /// Stands for all that the kernel is made from: 16 hexadecimal digits. Comments in the fragment do not count.
    #[must_use]
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        // With its length before it, so that no two lists of parts make the same bytes.
        let mut add = |part: &str| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(&self.source.record.sha256);
        add(&self.compiler);
        add(&self.fragment.lines());
        for Patch { name, text } in &self.patches {
            add(name);
            add(text);
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The kernel, if it is in the cache.
    #[must_use]
    pub fn cached(&self, ctx: &Ctx) -> Option<Tuned> {
        let key = self.key();
        let folder = ctx.cache.join(format!("{FOLDER}{key}"));
        folder.is_dir().then_some(Tuned { key, folder })
    }

    /// The kernel; it is built if it is not in the cache. What an interrupted build has made is taken up.
    pub fn build(&self, ctx: &Ctx) -> Result<Tuned> {
        match self.cached(ctx) {
            Some(tuned) => Ok(tuned),
            None => build::build(ctx),
        }
    }

    /// What it is made from, for people.
    #[must_use]
    pub fn origin(&self) -> String {
        let Record { package, version, .. } = &self.source.record;
        format!("{package} {version}, {}", self.compiler)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let cache = root.join("no-cache");
        let ctx = Ctx { target: root.clone(), root, cache, verbose: false };
        Recipe { compiler: "cc 1".to_owned(), ..Recipe::read(&ctx).unwrap() }
    }

    #[test]
    fn the_key_is_of_all_that_goes_in() {
        let recipe = recipe();
        let changed: [fn(&mut Recipe); 5] = [
            |it| it.source.record.sha256.replace_range(..1, "x"),
            |it| it.compiler.push('0'),
            |it| it.fragment = Fragment::parse("CONFIG_SMP=y\n").unwrap(),
            |it| it.patches[0].text.push('\n'),
            |it| it.patches.clear(),
        ];
        let mut keys = vec![recipe.key(), recipe.key()];
        keys.dedup();
        for change in changed {
            let mut other = recipe.clone();
            change(&mut other);
            keys.push(other.key());
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 1 + changed.len());
        assert!(keys.iter().all(|key| key.len() == 16));
    }

    #[test]
    fn comments_build_nothing_anew() {
        let mut recipe = recipe();
        let key = |recipe: &mut Recipe, text| {
            recipe.fragment = Fragment::parse(text).unwrap();
            recipe.key()
        };
        let before = key(&mut recipe, "# Why.\nCONFIG_SMP=y\n# CONFIG_VT is not set\n");
        assert_eq!(before, key(&mut recipe, "\nCONFIG_SMP=y\n\n# Otherwise.\n# CONFIG_VT is not set\n"));
        assert_ne!(before, key(&mut recipe, "CONFIG_SMP=y\n"));
    }

    #[test]
    fn the_fragment_of_the_tree_is_whole() {
        let recipe = recipe();
        let wishes = &recipe.fragment.wishes;
        assert!(wishes.iter().all(|wish| !wish.why.is_empty()), "each wish has its reason");
        for kept in ["CPU_MITIGATIONS", "MITIGATION_RETHUNK", "INIT_ON_ALLOC_DEFAULT_ON"] {
            assert!(wishes.iter().any(|wish| wish.option == kept && wish.value == "y"), "{kept}");
        }
    }
}
