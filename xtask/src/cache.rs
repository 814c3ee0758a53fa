//! The cache: folders that are there whole or not at all.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ctx::Ctx;

/// Name of folders that are not yet whole.
const UNFINISHED: &str = ".unfinished-";

/// The folder `name` of the cache. If it is not there, `make` fills a temporary one, which is then renamed:
/// whatever interrupts this leaves nothing that is taken for whole. Two processes do not fill at the same time.
pub fn folder(ctx: &Ctx, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = ctx.cache.join(name);
    if path.exists() {
        return Ok(path);
    }
    let _lock = lock(ctx)?;
    if path.exists() {
        return Ok(path);
    }
    sweep(ctx)?;
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&ctx.cache)?;
    make(unfinished.path())?;
    let made = unfinished.keep();
    fs::rename(&made, &path)
        .with_context(|| format!("cannot rename {} to {}", made.display(), path.display()))?;
    Ok(path)
}

/// Writes a file by way of a temporary one.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("file without a folder")?;
    // For everyone whom the user's umask lets, as with any other new file.
    let open = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new()
        .permissions(open)
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    fs::write(file.path(), bytes)?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Taken while the cache is changed; given back when dropped or when the process ends.
fn lock(ctx: &Ctx) -> Result<File> {
    exclusive(ctx, ".lock")
}

/// Waits until no other process, nor another caller in this one, holds the lock of this name. It is given back when
/// dropped or when the process ends.
pub fn exclusive(ctx: &Ctx, name: &str) -> Result<File> {
    let path = ctx.cache.join(name);
    let shown = path.display();
    fs::create_dir_all(&ctx.cache).with_context(|| format!("cannot create {}", ctx.cache.display()))?;
    let file = File::create(&path).with_context(|| format!("cannot write {shown}"))?;
    file.lock().with_context(|| format!("cannot lock {shown}"))?;
    Ok(file)
}

/// Removes what interrupted runs left. Only the holder of the lock has unfinished folders, and it has none yet.
fn sweep(ctx: &Ctx) -> io::Result<()> {
    for entry in fs::read_dir(&ctx.cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn ctx(cache: &Path) -> Ctx {
        Ctx { root: cache.into(), target: cache.into(), cache: cache.into(), verbose: false }
    }

    #[test]
    fn is_filled_once_and_only_when_whole() {
        let place = tempfile::tempdir().unwrap();
        let ctx = ctx(place.path());
        fs::create_dir(place.path().join(".unfinished-old")).unwrap();
        let failed = folder(&ctx, "x", |path| {
            fs::write(path.join("half"), "")?;
            bail!("interrupted")
        });
        assert_eq!(failed.unwrap_err().to_string(), "interrupted");
        let names =
            || fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names(), [".lock"]);
        let path = folder(&ctx, "x", |path| Ok(fs::write(path.join("whole"), "1")?)).unwrap();
        assert_eq!(folder(&ctx, "x", |_| bail!("again")).unwrap(), path);
        assert_eq!(fs::read_to_string(path.join("whole")).unwrap(), "1");
    }
}
