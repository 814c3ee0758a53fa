//! Debian's package manager: where packages come from, and how missing tools are installed. The hosts are those of
//! the user's own configuration.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache;
use crate::ctx::Ctx;

/// Where packages are looked up.
#[derive(Debug)]
pub enum Lists {
    /// In what this host is configured with.
    Host,
    /// In another suite of Debian, from the mirror that this host is configured with. Apt's state for it is in the
    /// cache; the host's own is not touched.
    Suite(Vec<String>),
}

impl Lists {
    /// The lists of Debian's suite `name`.
    pub fn suite(ctx: &Ctx, name: &str) -> Result<Self> {
        let keyring = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
        if !keyring.is_file() {
            install(ctx, "Debian's keyring", "debian-archive-keyring")?;
        }
        let mirror = Self::Host.with(ctx, || {
            let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
            let text = ctx.read(Command::new("apt-get").args(["indextargets", "--format", format]))?;
            let uri = text.lines().find_map(|line| line.strip_prefix("Debian|Debian|"));
            Ok(uri.context("apt is configured with no mirror of Debian")?.to_owned())
        })?;
        let folder = ctx.cache.join("apt").join(name);
        let [state, store] = ["state", "cache"].map(|part| folder.join(part));
        for place in [state.join("lists/partial"), store.join("archives/partial")] {
            fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
        }
        let list = folder.join("sources.list");
        cache::write(
            &list,
            format!("deb [signed-by={}] {mirror} {name} main\n", keyring.display()).as_bytes(),
        )?;
        let places = [("Etc::sourcelist", &*list), ("State", &state), ("Cache", &store)];
        let mut options: Vec<String> =
            places.map(|(what, path)| format!("-oDir::{what}={}", path.display())).to_vec();
        options.push("-oDir::Etc::sourceparts=-".to_owned());
        // What this host has installed is nothing to it.
        options.push("-oDir::State::status=/dev/null".to_owned());
        Ok(Self::Suite(options))
    }

    /// A program of apt's that uses these lists.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Self::Suite(options) = self {
            command.args(options);
        }
        command
    }

    /// Does something that needs the lists. If it fails, they are fetched, where that is possible, and it is tried
    /// once more: they may be absent, or so old that they name files that are gone. Tasks that run side by side do so one
    /// after the other: apt itself does not wait for another apt.
    fn with<T>(&self, ctx: &Ctx, act: impl Fn() -> Result<T>) -> Result<T> {
        if find("apt-get").is_none() {
            bail!("packages are found through apt, which this host does not have");
        }
        let _lock = cache::exclusive(ctx, ".apt-lock")?;
        let first = match act() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if matches!(self, Self::Host) && !is_root() {
            return Err(first).context("if the package lists are absent or old, run as root: apt-get update");
        }
        let step = ctx.step("Fetching package lists");
        ctx.run(self.command("apt-get").args(["update", "--quiet"])).context("cannot fetch package lists")?;
        drop(step);
        act()
    }
}

/// What the package index says of a package; field names as in Debian Policy, chapter 5.
#[derive(Debug)]
pub struct Stanza(BTreeMap<String, String>);

impl Stanza {
    fn parse(text: &str) -> Self {
        let first = text.lines().take_while(|line| !line.is_empty());
        let fields = first.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// The value of a field of one line.
    pub fn field(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("package index gives no {name}"))
    }

    /// The package among its dependencies whose name starts with `prefix`, as `NAME` or `NAME=VERSION`.
    pub fn dependency(&self, prefix: &str) -> Result<String> {
        let depends = self.field("Depends")?;
        let found = depends.split([',', '|']).map(str::trim).find(|one| one.starts_with(prefix));
        let found = found.with_context(|| format!("no {prefix}… among the dependencies: {depends}"))?;
        Ok(found.replace([' ', '(', ')'], ""))
    }
}

/// Looks a package up (`NAME` or `NAME=VERSION`): of several versions, the one that would be installed.
pub fn show(ctx: &Ctx, lists: &Lists, package: &str) -> Result<Stanza> {
    let show = || ctx.read(lists.command("apt-cache").args(["show", "--no-all-versions", package]));
    Ok(Stanza::parse(&lists.with(ctx, show)?))
}

/// Downloads a package (`NAME=VERSION`) into `folder`, as its only file.
pub fn download(ctx: &Ctx, lists: &Lists, package: &str, folder: &Path) -> Result<PathBuf> {
    let get = || {
        let mut command = lists.command("apt-get");
        ctx.run(command.args(["--quiet", "download", package]).current_dir(folder))
    };
    lists.with(ctx, get)?;
    let mut files = folder.read_dir()?;
    let (Some(file), None) = (files.next(), files.next()) else {
        bail!("apt-get download {package} did not leave one file in {}", folder.display())
    };
    Ok(file?.path())
}

/// Where `tool` is. If it is missing, `package` is installed when that is possible, else the error says how.
pub fn tool(ctx: &Ctx, tool: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find(tool) {
        return Ok(path);
    }
    install(ctx, tool, package)?;
    find(tool).with_context(|| format!("package {package} has no {tool}"))
}

/// Sees to it that a file is there that no `PATH` leads to, in the same way.
pub fn file(ctx: &Ctx, path: &str, package: &str) -> Result<()> {
    if !Path::new(path).is_file() {
        install(ctx, path, package)?;
        ensure!(Path::new(path).is_file(), "package {package} has no {path}");
    }
    Ok(())
}

/// Installs `package`, from which `what` is wanted.
fn install(ctx: &Ctx, what: &str, package: &str) -> Result<()> {
    let by_hand = format!("{what} is missing; install it: apt-get install --no-install-recommends {package}");
    if find("apt-get").is_none() || !is_root() {
        bail!(by_hand);
    }
    let _step = ctx.step(format!("Installing {package} (for {what})"));
    let install = || {
        let args = ["install", "--quiet", "--yes", "--no-install-recommends", package];
        ctx.run(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    Lists::Host.with(ctx, install).context(by_hand)
}

/// Finds a program in `PATH`.
#[must_use]
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(tool)).find(|path| path.is_file())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_first_stanza() {
        let text = "Package: meta\nVersion: 6.1-2\nDepends: base (>= 1), linux-image-6.1-cloud (= 6.1-2)\n more\n\n\
                    Package: meta\nVersion: 6.1-1\n";
        let stanza = Stanza::parse(text);
        assert_eq!(stanza.field("Version").unwrap(), "6.1-2");
        assert_eq!(stanza.dependency("linux-image-").unwrap(), "linux-image-6.1-cloud=6.1-2");
        assert!(stanza.dependency("firmware-").is_err());
        assert!(stanza.field("SHA256").is_err());
    }
}
