//! Unpacked kernels, kept from one start to the next in a folder that belongs to the user alone.
//!
//! An entry is named after the identity of the file it was unpacked from, and repeats it inside. It is written
//! under another name, synced, and renamed, so that what has the right name is whole. It is used only if the folder
//! and the file belong to the user and to nobody else: whoever may write a cached kernel owns the guest.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};
use rustix::process::geteuid;
use rustix::rand::{GetRandomFlags, getrandom};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most entries that are kept.
const MAX_ENTRIES: usize = 8;
/// Most bytes that are kept.
const MAX_BYTES: u64 = 1 << 30;
/// A file changed less than this ago could change again without a later time stamp.
const SETTLED: Duration = Duration::from_secs(2);
/// A temporary file this old was left behind by a process that died.
const ABANDONED: Duration = Duration::from_secs(600);
const SUFFIX: &str = ".kernel";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// The identity of a kernel file at one moment.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Key {
    device: U64,
    inode: U64,
    size: U64,
    /// Seconds and nanoseconds.
    modified: [U64; 2],
    /// Seconds and nanoseconds.
    changed: [U64; 2],
}

impl Key {
    /// The identity of the file that `meta` describes.
    #[must_use]
    pub fn new(meta: &Metadata) -> Self {
        let time = |seconds: i64, nanoseconds: i64| [seconds.cast_unsigned(), nanoseconds.cast_unsigned()];
        Self {
            device: meta.dev().into(),
            inode: meta.ino().into(),
            size: meta.size().into(),
            modified: time(meta.mtime(), meta.mtime_nsec()).map(U64::new),
            changed: time(meta.ctime(), meta.ctime_nsec()).map(U64::new),
        }
    }

    /// Whether the file was left alone for so long that a change from now on has a later time stamp.
    #[must_use]
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let changed = Duration::new(self.changed[0].get(), 0);
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(changed).is_some_and(|age| age > SETTLED)
    }

    fn file_name(&self) -> String {
        let [device, inode, size] = [self.device, self.inode, self.size].map(U64::get);
        let [[ms, mn], [cs, cn]] = [self.modified, self.changed].map(|time| time.map(U64::get));
        format!("{device:x}-{inode:x}-{size:x}-{ms:x}.{mn:x}-{cs:x}.{cn:x}{SUFFIX}")
    }
}

/// An open cache folder.
#[derive(Debug)]
pub struct Cache {
    folder: OwnedFd,
}

impl Cache {
    /// Opens the folder, making it and those above it where they are missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::open(path, flags, Mode::empty());
        let folder = match open() {
            Err(rustix::io::Errno::NOENT) => {
                DirBuilder::new().recursive(true).mode(0o700).create(path)?;
                open()?
            }
            other => other?,
        };
        let stat = fstat(&folder)?;
        if !is_private(stat.st_uid, stat.st_mode) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("others may use {}: make it yours alone (chmod 700)", path.display()),
            ));
        }
        Ok(Self { folder })
    }

    /// The entry of a kernel file, if there is one that can be trusted.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.folder, key.file_name(), flags, Mode::empty()).ok()?);
        let meta = file.metadata().ok()?;
        (meta.is_file() && is_private(meta.uid(), meta.mode())).then_some(file)
    }

    /// Makes the entry of a kernel file: `fill` writes it. What is oldest then makes room.
    pub fn put(&self, key: &Key, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
        let mut unique = [0; 8];
        getrandom(&mut unique, GetRandomFlags::empty())?;
        let temporary = format!("{:x}{TEMPORARY_SUFFIX}", u64::from_ne_bytes(unique));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
        let filled = fill(&file)
            // Without it, a power cut could leave an entry of the right length full of zeros.
            .and_then(|()| file.sync_data())
            .and_then(|()| Ok(renameat(&self.folder, &temporary, &self.folder, key.file_name())?));
        if let Err(error) = filled {
            let _ = unlinkat(&self.folder, &temporary, AtFlags::empty());
            return Err(error);
        }
        self.prune(SystemTime::now())?;
        Ok(file)
    }

    /// Removes abandoned temporary files, and the oldest entries until the rest is within its bounds.
    fn prune(&self, now: SystemTime) -> io::Result<()> {
        let remove = |name: &str| unlinkat(&self.folder, name, AtFlags::empty());
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            // It may have gone since: another process prunes too.
            let Ok(stat) = statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let age = age(now, stat.st_mtime, stat.st_mtime_nsec);
            if name.ends_with(TEMPORARY_SUFFIX) && age > ABANDONED {
                let _ = remove(name);
            } else if Path::new(name).extension() == Some(OsStr::new(&SUFFIX[1..])) {
                entries.push((age, stat.st_size.cast_unsigned(), name.to_owned()));
            }
        }
        entries.sort();
        let mut bytes = 0u64;
        for (index, (_, size, name)) in entries.iter().enumerate() {
            bytes = bytes.saturating_add(*size);
            // The newest stays even if it alone is too large: it is in use.
            if index > 0 && (index >= MAX_ENTRIES || bytes > MAX_BYTES) {
                let _ = remove(name);
            }
        }
        Ok(())
    }
}

/// Whether what has this owner and mode is the user's own, and nobody else may read or write it.
fn is_private(owner: u32, mode: u32) -> bool {
    owner == geteuid().as_raw() && mode & 0o077 == 0
}

fn age(now: SystemTime, seconds: i64, nanoseconds: u64) -> Duration {
    let then = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(then)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn key(inode: u64) -> Key {
        let zero = U64::new(0);
        Key { device: zero, inode: inode.into(), size: zero, modified: [zero; 2], changed: [zero; 2] }
    }

    /// A folder that is private as mere temporary ones are not.
    fn empty() -> (TempDir, Cache) {
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        (folder, cache)
    }

    fn put(cache: &Cache, key: &Key) {
        cache.put(key, |mut file| file.write_all(b"kernel")).unwrap();
    }

    fn get(cache: &Cache, key: &Key) -> Option<String> {
        let mut text = String::new();
        cache.get(key)?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn gives_back_what_was_put() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let cache = Cache::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(get(&cache, &key(1)), None);
        put(&cache, &key(1));
        assert_eq!(get(&cache, &key(1)).as_deref(), Some("kernel"));
        assert_eq!(get(&cache, &key(2)), None);
        assert_eq!(get(&Cache::open(&path).unwrap(), &key(1)).as_deref(), Some("kernel"));
    }

    #[test]
    fn a_failed_fill_leaves_nothing() {
        let (folder, cache) = empty();
        cache.put(&key(1), |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn trusts_nothing_that_others_could_have_written() {
        let (folder, cache) = empty();
        put(&cache, &key(1));
        let entry = folder.path().join(key(1).file_name());
        fs::set_permissions(&entry, Permissions::from_mode(0o620)).unwrap();
        assert_eq!(get(&cache, &key(1)), None);
        fs::rename(&entry, folder.path().join("aside")).unwrap();
        fs::set_permissions(folder.path().join("aside"), Permissions::from_mode(0o600)).unwrap();
        symlink("aside", &entry).unwrap();
        assert_eq!(get(&cache, &key(1)), None);
        fs::set_permissions(folder.path(), Permissions::from_mode(0o750)).unwrap();
        let error = Cache::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("others may use") && error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn the_oldest_make_room() {
        let (folder, cache) = empty();
        let now = SystemTime::now();
        for inode in 1..=10 {
            put(&cache, &key(inode));
            let file = File::options().write(true).open(folder.path().join(key(inode).file_name())).unwrap();
            file.set_modified(now - Duration::from_secs(100 - inode)).unwrap();
        }
        put(&cache, &key(11));
        let kept: Vec<u64> = (1..=11).filter(|&inode| get(&cache, &key(inode)).is_some()).collect();
        assert_eq!(kept, [4, 5, 6, 7, 8, 9, 10, 11]);
        // By size: the newest alone may be more than the bound.
        let large = File::options().write(true).open(folder.path().join(key(11).file_name())).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        cache.prune(now).unwrap();
        assert!(cache.get(&key(11)).is_some() && cache.get(&key(10)).is_none());
    }

    #[test]
    fn abandoned_files_go() {
        let (folder, cache) = empty();
        let path = folder.path().join("1.tmp");
        File::create(&path).unwrap();
        cache.prune(SystemTime::now()).unwrap();
        assert!(path.exists(), "somebody may be writing it");
        cache.prune(SystemTime::now() + 2 * ABANDONED).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_fresh_change_is_not_settled() {
        let file = tempfile::tempfile().unwrap();
        let key = Key::new(&file.metadata().unwrap());
        assert!(!key.is_settled(SystemTime::now()));
        assert!(key.is_settled(SystemTime::now() + 2 * SETTLED));
    }
}
