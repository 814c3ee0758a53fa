//! Guest kernels: Debian's, and the modules that come with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::ctx::Ctx;
use crate::debs::{self, Package};
use crate::{cache, unpack};

/// The package that depends on Debian's newest kernel for virtual machines.
pub const DEBIAN: &str = "linux-image-cloud-amd64";
/// What that dependency's name starts with.
const IMAGE: &str = "linux-image-";

/// Debian's kernel, unpacked in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says in it.
    pub release: String,
    /// The `bzImage`.
    pub image: PathBuf,
    /// The package that it is from.
    pub package: Package,
    modules: PathBuf,
}

/// A kernel module.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The modules that must be loaded before it, in that order.
    pub needs: Vec<String>,
    /// Its ELF file, not compressed.
    pub elf: Vec<u8>,
}

impl Kernel {
    /// Debian's kernel, from the cache if it is there.
    pub fn debian(ctx: &Ctx) -> Result<Self> {
        Self::in_package(debs::get(ctx, DEBIAN, Some(IMAGE))?)
    }

    /// Debian's newest kernel, as apt's lists have it.
    pub fn newest_debian(ctx: &Ctx) -> Result<Self> {
        Self::in_package(debs::fetch(ctx, DEBIAN, Some(IMAGE))?)
    }

    /// Debian's kernel if it is in the cache.
    pub fn cached_debian(ctx: &Ctx) -> Result<Option<Self>> {
        debs::cached(ctx, DEBIAN)?.map(Self::in_package).transpose()
    }

    /// The kernel in a package of Debian's.
    pub fn in_package(package: Package) -> Result<Self> {
        let boot = package.path.join("boot");
        let mut images =
            names(&boot)?.into_iter().filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
        let release = images.next_back().with_context(|| format!("no vmlinuz-… in {}", boot.display()))?;
        let image = boot.join(format!("vmlinuz-{release}"));
        // Where the folder is depends on Debian's release: the move to /usr came after 12.
        let modules = ["lib/modules", "usr/lib/modules"].map(|place| package.path.join(place).join(&release));
        let modules = modules.into_iter().find(|path| path.is_dir());
        let modules = modules.with_context(|| format!("no modules in {}", package.path.display()))?;
        Ok(Self { release, image, package, modules })
    }

    /// The named modules and all that they depend on, in an order in which they can be loaded. What is built in is
    /// left out.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let list = |file: &str| -> Result<BTreeMap<String, PathBuf>> {
            let path = self.modules.join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.lines().map(|line| (module_name(line), self.modules.join(line))).collect())
        };
        let mut search = Search {
            loadable: list("modules.order")?,
            builtin: list("modules.builtin")?.into_keys().collect(),
            seen: BTreeSet::new(),
            found: Vec::new(),
        };
        names.iter().try_for_each(|name| search.visit(&name.replace('-', "_")))?;
        Ok(search.found)
    }

    /// The kernel's ELF file, unpacked from the `bzImage`; kept in the cache.
    pub fn vmlinux(&self, ctx: &Ctx) -> Result<PathBuf> {
        let folder = cache::folder(ctx, &format!("vmlinux-{}", self.package.record.sha256), |place| {
            let image = fs::read(&self.image)?;
            let elf =
                payload(&image).and_then(unpack::all).with_context(|| self.image.display().to_string())?;
            ensure!(elf.starts_with(b"\x7fELF"), "{}: its payload is not ELF", self.image.display());
            Ok(fs::write(place.join("vmlinux"), elf)?)
        })?;
        Ok(folder.join("vmlinux"))
    }
}

/// The compressed kernel in a `bzImage` (Linux boot protocol 2.08: `payload_offset`, `payload_length`; the length
/// includes four bytes after the compressed data, its size when unpacked).
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).context("not a bzImage: too short")?;
        Ok::<_, anyhow::Error>(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage: no HdrS");
    let sectors = usize::from(image[0x1f1]);
    let start = (if sectors == 0 { 4 } else { sectors } + 1) * 512 + word(0x248)?;
    let len = word(0x24c)?.checked_sub(4).context("no payload in the bzImage")?;
    image.get(start..).and_then(|rest| rest.get(..len)).context("payload is outside of the bzImage")
}

/// A depth-first search through modules' dependencies.
struct Search {
    loadable: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    seen: BTreeSet<String>,
    found: Vec<Module>,
}

impl Search {
    fn visit(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.loadable.get(name) else { bail!("the kernel has no module {name}") };
        let path = with_suffix(path);
        let elf = fs::read(&path).map_err(anyhow::Error::from).and_then(|bytes| unpack::all(&bytes));
        let elf = elf.with_context(|| format!("cannot read {}", path.display()))?;
        let direct = dependencies(&elf).with_context(|| format!("{} is damaged", path.display()))?;
        direct.iter().try_for_each(|needed| self.visit(needed))?;
        let needs_of_direct = self.found.iter().filter(|module| direct.contains(&module.name));
        let all: BTreeSet<&String> =
            needs_of_direct.flat_map(|module| &module.needs).chain(&direct).collect();
        let in_order = self.found.iter().map(|module| &module.name).filter(|name| all.contains(name));
        let needs = in_order.cloned().collect();
        self.found.push(Module { name: name.to_owned(), needs, elf });
        Ok(())
    }
}

/// The lists name `x.ko` where the file may be `x.ko.xz`.
fn with_suffix(path: &Path) -> PathBuf {
    let suffixes = ["", ".xz", ".zst", ".gz"].iter().map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    });
    suffixes.into_iter().find(|path| path.exists()).unwrap_or_else(|| path.to_owned())
}

/// `kernel/arch/x86/kvm/kvm-amd.ko` → `kvm_amd`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// What a module's `.modinfo` says that it depends on.
fn dependencies(elf: &[u8]) -> Result<Vec<String>> {
    let parsed = goblin::elf::Elf::parse(elf)?;
    let mut sections = parsed.section_headers.iter();
    let section = sections.find(|section| parsed.shdr_strtab.get_at(section.sh_name) == Some(".modinfo"));
    let range = section.and_then(goblin::elf::SectionHeader::file_range).context("no .modinfo")?;
    let info = elf.get(range).context(".modinfo is outside of the file")?;
    let mut fields = info.split(|byte| *byte == 0);
    let depends = fields.find_map(|field| field.strip_prefix(b"depends=")).unwrap_or_default();
    let names = std::str::from_utf8(depends)?.split(',').filter(|name| !name.is_empty());
    Ok(names.map(module_name).collect())
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
