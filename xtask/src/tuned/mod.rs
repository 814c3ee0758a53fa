//! Jiffy's own guest kernels: Debian's source, a fragment for each variant and the patches, all in `xtask/kernel`. One is
//! built once for each combination of these and of the compiler, and kept in the cache.

use std::fmt::{self, Display, Formatter};
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

/// Which of the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Variant {
    /// All that a guest meets is built in, and no more
    #[default]
    Fast,
    /// With modules, container networking in full, nested KVM, and an EFI stub
    Full,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Full];

    /// Its name, as on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Full => "full",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name() == name)
    }

    /// Where its fragments are, from the root of the workspace; a later one overrules.
    #[must_use]
    pub const fn fragments(self) -> &'static [&'static str] {
        const FAST: &str = "xtask/kernel/fast.config";
        match self {
            Self::Fast => &[FAST],
            Self::Full => &[FAST, "xtask/kernel/full.config"],
        }
    }

    /// Whether parts of it are modules.
    const fn has_modules(self) -> bool {
        matches!(self, Self::Full)
    }

    /// How many lines make prints for a build from nothing, about: for the progress bar.
    const fn lines(self) -> u64 {
        match self {
            Self::Fast => 2200,
            Self::Full => 3600,
        }
    }

    /// What its folders in the cache start with; the key follows.
    fn folder(self) -> String {
        format!("kernel-{self}_")
    }
}

impl Display for Variant {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.pad(self.name())
    }
}

/// The kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuned {
    /// Which one it is.
    pub variant: Variant,
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

    /// An initial RAM file system with all modules, if it has any: for behind another one.
    #[must_use]
    pub fn modules(&self) -> Option<PathBuf> {
        self.variant.has_modules().then(|| self.folder.join(MODULES))
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
                for variant in Variant::ALL {
                    if let Some(key) = name.strip_prefix(&variant.folder()) {
                        all.push(Self { variant, key: key.to_owned(), folder: folder.clone() });
                    }
                }
            }
        }
        Ok(all)
    }
}

/// The file in the folder of a kernel that has its modules.
const MODULES: &str = "modules.cpio";

/// The source that is pinned in `xtask/kernel/source.json`.
#[derive(Clone, Debug, Deserialize)]
struct Source {
    /// The suite of Debian that has the package.
    suite: String,
    /// The package `linux-source-…`.
    record: Record,
    /// The package with Debian's own kernel of the same version.
    debian: Record,
}

impl Source {
    fn read(ctx: &Ctx) -> Result<Self> {
        let text = read(&ctx.root.join("xtask/kernel/source.json"))?;
        serde_json::from_str(&text).context("xtask/kernel/source.json is not as it should be")
    }
}

/// Debian's own kernel of the version that the others are made from, to compare them with; from the cache if it is there.
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
    /// Which kernel it makes.
    pub variant: Variant,
    /// What is wished of its configuration.
    pub fragment: Fragment,
    source: Source,
    patches: Vec<Patch>,
    compiler: String,
    trial: bool,
}

impl Recipe {
    /// Reads what is in the tree, and asks the compiler for its version.
    pub fn read(ctx: &Ctx, variant: Variant) -> Result<Self> {
        let folder = ctx.root.join("xtask/kernel");
        let source = Source::read(ctx)?;
        let mut fragment = Fragment::parse("", "")?;
        for file in variant.fragments() {
            fragment = fragment.with(Fragment::parse(file, &read(&ctx.root.join(file))?)?)?;
        }
        let mut patches = Vec::new();
        for entry in fs::read_dir(folder.join("patches")).context("cannot list xtask/kernel/patches")? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            patches.push(Patch { name, text: read(&path)? });
        }
        patches.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { variant, fragment, source, patches, compiler: compiler(ctx), trial: false })
    }

    /// The same as a trial, for figures to compare: of `source` (`SUITE/PACKAGE`, its newest version there) if that is
    /// given, and without the patches if not `patched`. Patches that do not fit are left out, and wishes that are not
    /// granted are not insisted on; each is named.
    pub fn trial(mut self, ctx: &Ctx, source: Option<&str>, patched: bool) -> Result<Self> {
        if let Some(source) = source {
            let (suite, package) =
                source.split_once('/').with_context(|| format!("{source} is not SUITE/PACKAGE"))?;
            self.source.record = debs::newest(ctx, suite, package)?;
            suite.clone_into(&mut self.source.suite);
        }
        if !patched {
            self.patches.clear();
        }
        Ok(Self { trial: true, ..self })
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
        if self.trial {
            add("trial");
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The kernel, if it is in the cache.
    #[must_use]
    pub fn cached(&self, ctx: &Ctx) -> Option<Tuned> {
        let key = self.key();
        let folder = ctx.cache.join(format!("{}{key}", self.variant.folder()));
        folder.is_dir().then_some(Tuned { variant: self.variant, key, folder })
    }

    /// The kernel; it is built if it is not in the cache. What an interrupted build has made is taken up.
    pub fn build(&self, ctx: &Ctx) -> Result<Tuned> {
        match self.cached(ctx) {
            Some(tuned) => Ok(tuned),
            None => build::build(ctx, self),
        }
    }

    /// What it is made from, for people.
    #[must_use]
    pub fn origin(&self) -> String {
        let Record { package, version, .. } = &self.source.record;
        format!("{package} {version}, {}", self.compiler)
    }
}

/// The compiler and its version. Where there is none, no kernel is built, and none is found that another one built.
fn compiler(ctx: &Ctx) -> String {
    let said = ctx.read(Command::new("gcc").arg("--version")).unwrap_or_default();
    said.lines().next().unwrap_or("none").to_owned()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(variant: Variant) -> Recipe {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let cache = root.join("no-cache");
        let ctx = Ctx { target: root.clone(), root, cache, verbose: false };
        Recipe { compiler: "cc 1".to_owned(), ..Recipe::read(&ctx, variant).unwrap() }
    }

    #[test]
    fn the_key_is_of_all_that_goes_in() {
        let recipe = recipe(Variant::Fast);
        let changed: [fn(&mut Recipe); 6] = [
            |it| it.source.record.sha256.replace_range(..1, "x"),
            |it| it.compiler.push('0'),
            |it| it.fragment = Fragment::parse("a.config", "CONFIG_SMP=y\n").unwrap(),
            |it| it.patches[0].text.push('\n'),
            |it| it.patches.clear(),
            |it| it.trial = true,
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
        let mut recipe = recipe(Variant::Fast);
        let key = |recipe: &mut Recipe, text| {
            recipe.fragment = Fragment::parse("a.config", text).unwrap();
            recipe.key()
        };
        let before = key(&mut recipe, "# Why.\nCONFIG_SMP=y\n# CONFIG_VT is not set\n");
        assert_eq!(before, key(&mut recipe, "\nCONFIG_SMP=y\n\n# Otherwise.\n# CONFIG_VT is not set\n"));
        assert_ne!(before, key(&mut recipe, "CONFIG_SMP=y\n"));
    }

    #[test]
    fn the_fragments_of_the_tree_are_whole() {
        for variant in Variant::ALL {
            let Recipe { fragment, .. } = recipe(variant);
            assert!(fragment.wishes.iter().all(|wish| !wish.why.is_empty()), "each wish has its reason");
            for kept in ["CPU_MITIGATIONS", "MITIGATION_RETHUNK", "INIT_ON_ALLOC_DEFAULT_ON"] {
                assert_eq!(
                    fragment.wish(kept).map(|wish| wish.value.as_str()),
                    Some("y"),
                    "{variant}: {kept}"
                );
            }
        }
    }
}
