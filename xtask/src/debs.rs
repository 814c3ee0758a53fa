//! Debian packages, unpacked in the cache: looked up, downloaded, verified and unpacked once, without root.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::apt::{self, Lists, Stanza};
use crate::ctx::Ctx;
use crate::{cache, unpack};

/// A package in the cache.
#[derive(Clone, Debug)]
pub struct Package {
    /// What it is, as the package index said when it was downloaded.
    pub record: Record,
    /// Its unpacked files.
    pub path: PathBuf,
}

/// What identifies a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name.
    pub package: String,
    /// Version.
    pub version: String,
    /// Hash of the package's file, in hexadecimal; checked when it was downloaded.
    pub sha256: String,
    /// Length of the package's file in bytes.
    pub size: u64,
}

impl Record {
    fn of(stanza: &Stanza) -> Result<Self> {
        Ok(Self {
            package: stanza.field("Package")?.to_owned(),
            version: stanza.field("Version")?.to_owned(),
            sha256: stanza.field("SHA256")?.to_owned(),
            size: stanza.field("Size")?.parse().context("size of the package")?,
        })
    }
}

/// The record's file beside a package's own; no package has a file of this name at its top.
const RECORD: &str = "jiffy-package.json";

/// The package that is in the cache for `name`; no package manager is asked.
pub fn cached(ctx: &Ctx, name: &str) -> Result<Option<Package>> {
    let link = ctx.cache.join(name);
    let Ok(path) = fs::canonicalize(&link) else { return Ok(None) };
    let file = path.join(RECORD);
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let record = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; remove {}", file.display(), path.display()))?;
    Ok(Some(Package { record, path }))
}

/// The package `name` (or, where `depends` is given, the one among its dependencies whose name starts so), from the
/// cache if it is there.
pub fn get(ctx: &Ctx, name: &str, depends: Option<&str>) -> Result<Package> {
    match cached(ctx, name)? {
        Some(package) => Ok(package),
        None => fetch(ctx, name, depends),
    }
}

/// The package `name` of Debian's suite `suite`, from the cache if any version of it is there.
pub fn get_from(ctx: &Ctx, suite: &str, name: &str) -> Result<Package> {
    match cached(ctx, name)? {
        Some(package) => Ok(package),
        None => newest_of(ctx, Lists::suite(ctx, suite)?, name, None),
    }
}

/// As [`get`], but looks the newest version up, whatever the cache has.
pub fn fetch(ctx: &Ctx, name: &str, depends: Option<&str>) -> Result<Package> {
    newest_of(ctx, Lists::Host, name, depends)
}

fn newest_of(ctx: &Ctx, lists: Lists, name: &str, depends: Option<&str>) -> Result<Package> {
    let step = ctx.step(format!("Looking {name} up"));
    let mut stanza = apt::show(ctx, &lists, name)?;
    if let Some(prefix) = depends {
        stanza = apt::show(ctx, &lists, &stanza.dependency(prefix)?)?;
    }
    let record = Record::of(&stanza)?;
    step.done();
    let path = place(ctx, || Ok(lists), &record)?;
    let folder = path.file_name().context("a package's folder has no name")?;
    // The name leads to the version last fetched; replaced by rename, so that it always leads somewhere.
    let fresh = tempfile::tempdir_in(&ctx.cache)?;
    symlink(folder, fresh.path().join(name))?;
    fs::rename(fresh.path().join(name), ctx.cache.join(name))?;
    Ok(Package { record, path })
}

/// What Debian's suite `suite` has as the newest version of the package `name`.
pub fn newest(ctx: &Ctx, suite: &str, name: &str) -> Result<Record> {
    let _step = ctx.step(format!("Looking {name} up in {suite}"));
    Record::of(&apt::show(ctx, &Lists::suite(ctx, suite)?, name)?)
}

/// Exactly the package of `record`, from the cache if it is there, else from Debian's suite `suite`; returns its
/// unpacked files.
pub fn pinned(ctx: &Ctx, suite: &str, record: &Record) -> Result<PathBuf> {
    place(ctx, || Lists::suite(ctx, suite), record)
}

/// The unpacked files of a package; where it is not in the cache, it is downloaded and verified.
fn place(ctx: &Ctx, lists: impl FnOnce() -> Result<Lists>, record: &Record) -> Result<PathBuf> {
    let id = format!("{}={}", record.package, record.version);
    let folder = format!("{}_{}", record.package, record.version.replace(':', "%3a"));
    cache::folder(ctx, &folder, |place| {
        let lists = lists()?;
        let step = ctx.step(format!("Downloading {id} ({})", indicatif::HumanBytes(record.size)));
        let download = tempfile::tempdir_in(place)?;
        let deb = apt::download(ctx, &lists, &id, download.path())?;
        let hash = sha256(&deb)?;
        ensure!(hash == record.sha256, "{id}: SHA256 is {hash}, expected {}", record.sha256);
        step.message(format!("Unpacking {id}"));
        unpack_deb(&deb, place).with_context(|| format!("cannot unpack {id}"))?;
        fs::write(place.join(RECORD), serde_json::to_vec_pretty(record)?)?;
        Ok(())
    })
}

fn sha256(path: &Path) -> Result<String> {
    let hash = Sha256::digest(fs::read(path)?);
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Unpacks the files of a package: an `ar` archive (`ar.5`, common format) with a member `data.tar`, compressed or
/// not (`deb.5`).
fn unpack_deb(deb: &Path, into: &Path) -> Result<()> {
    let mut file = BufReader::new(File::open(deb)?);
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    ensure!(&magic == b"!<arch>\n", "not an ar archive");
    loop {
        let mut header = [0; 60];
        file.read_exact(&mut header).context("no data.tar in the archive")?;
        let text = std::str::from_utf8(&header).context("header in the archive is not text")?;
        let (name, size) = (text[..16].trim_end().trim_end_matches('/'), text[48..58].trim_end());
        let size: u64 = size.parse().with_context(|| format!("size of {name} in the archive"))?;
        let mut member = (&mut file).take(size);
        if name.starts_with("data.tar") {
            let mut archive = tar::Archive::new(unpack::reader(member)?);
            return archive.unpack(into).context("data.tar");
        }
        if io::copy(&mut member, &mut io::sink())? != size {
            bail!("{name} in the archive is cut off");
        }
        if size % 2 == 1 {
            file.read_exact(&mut [0])?;
        }
    }
}
