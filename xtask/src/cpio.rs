//! Writes initial RAM file systems: cpio archives of the "newc" kind (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). The same content gives the same bytes: entries
//! are sorted by path, inodes are counted, times are 0 and everything belongs to root.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// An archive in the making: paths, without a leading slash, and what is there.
#[derive(Clone, Debug, Default)]
pub struct Cpio(BTreeMap<String, Entry>);

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A regular file.
    File {
        /// Permissions, such as 0o755.
        mode: u32,
        /// Content.
        data: Vec<u8>,
    },
    /// A symbolic link to this target.
    Symlink(String),
    /// A character device.
    CharDevice {
        /// Permissions, such as 0o600.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Bits of a file's mode that say what kind it is (`inode.7`).
mod kind {
    pub const CHAR_DEVICE: u32 = 0o020_000;
    pub const FOLDER: u32 = 0o040_000;
    pub const FILE: u32 = 0o100_000;
    pub const SYMLINK: u32 = 0o120_000;
}

/// Paths longer than this are not unpacked by the kernel (`PATH_MAX`, with the NUL).
const PATH_MAX: usize = 4096;

impl Cpio {
    /// Adds an entry, and the folders above it; replaces what was at its path.
    pub fn add(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = path.trim_matches('/');
        for (slash, _) in path.match_indices('/') {
            self.0.entry(path[..slash].to_owned()).or_insert(Entry::Folder);
        }
        self.0.insert(path.to_owned(), entry);
        self
    }

    /// Adds a program or another file that may be executed.
    pub fn program(&mut self, path: &str, data: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, Entry::File { mode: 0o755, data: data.into() })
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, data: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, Entry::File { mode: 0o644, data: data.into() })
    }

    /// The archive's bytes.
    pub fn build(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.0) {
            ensure!(path.len() < PATH_MAX && !path.contains('\0'), "path is too long or has a NUL: {path:?}");
            write(&mut out, inode, path, entry)?;
        }
        write(&mut out, 0, "TRAILER!!!", &Entry::File { mode: 0, data: Vec::new() })?;
        Ok(out)
    }
}

fn write(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Result<()> {
    let (mode, data, device): (u32, &[u8], _) = match entry {
        Entry::Folder => (kind::FOLDER | 0o755, &[], (0, 0)),
        Entry::File { mode, data } => (kind::FILE | mode, data, (0, 0)),
        Entry::Symlink(target) => (kind::SYMLINK | 0o777, target.as_bytes(), (0, 0)),
        Entry::CharDevice { mode, major, minor } => (kind::CHAR_DEVICE | mode, &[], (*major, *minor)),
    };
    let size =
        u32::try_from(data.len()).map_err(|_| anyhow::anyhow!("{path} is too large for an initramfs"))?;
    let links = if matches!(entry, Entry::Folder) { 2 } else { 1 };
    let name_size = u32::try_from(path.len() + 1)?;
    // c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_maj, c_min, c_rmaj, c_rmin, c_namesize, c_chksum
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One entry as a reader sees it: header fields and data.
    type Read = (String, [u32; 13], Vec<u8>);

    /// Reads an archive as the kernel does (`init/initramfs.c`), up to its trailer.
    fn read(mut bytes: &[u8]) -> Vec<Read> {
        let len = bytes.len();
        let mut take = |count: usize, aligned: bool| {
            let (part, rest) = bytes.split_at(count);
            bytes = rest;
            let pad = if aligned { (4 - (len - bytes.len()) % 4) % 4 } else { 0 };
            assert!(bytes[..pad].iter().all(|byte| *byte == 0));
            bytes = &bytes[pad..];
            part
        };
        let mut found = Vec::new();
        loop {
            assert_eq!(take(6, false), b"070701");
            let fields = std::array::from_fn(|_| {
                u32::from_str_radix(std::str::from_utf8(take(8, false)).unwrap(), 16).unwrap()
            });
            let (name, nul) = take(fields[11] as usize, true).split_at(fields[11] as usize - 1);
            assert_eq!(nul, [0]);
            let name = String::from_utf8(name.to_vec()).unwrap();
            if name == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return found;
            }
            let data = take(fields[6] as usize, true).to_vec();
            found.push((name, fields, data));
        }
    }

    fn entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            (0u32..0o10000, any::<Vec<u8>>()).prop_map(|(mode, data)| Entry::File { mode, data }),
            "[a-z/.]{1,20}".prop_map(Entry::Symlink),
            (0u32..0o10000, any::<u8>(), any::<u8>()).prop_map(|(mode, major, minor)| Entry::CharDevice {
                mode,
                major: major.into(),
                minor: minor.into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn reads_back(entries in proptest::collection::btree_map("[a-c]{1,3}[-.]?(/[a-z]{1,9}){0,2}", entry(), 0..12)) {
            let mut cpio = Cpio::default();
            let mut backwards = Cpio::default();
            for (path, entry) in &entries {
                cpio.add(path, entry.clone());
            }
            for (path, entry) in entries.iter().rev() {
                // A path that is a folder of another entry as well would depend on the order.
                prop_assume!(!entries.keys().any(|other| other.starts_with(&format!("{path}/"))));
                backwards.add(path, entry.clone());
            }
            let bytes = cpio.build().unwrap();
            prop_assert_eq!(&bytes, &backwards.build().unwrap());
            let found = read(&bytes);
            for (index, (path, fields, data)) in found.iter().enumerate() {
                let [inode, mode, uid, gid, links, mtime, size, major, minor, rmajor, rminor, _, check] = *fields;
                prop_assert_eq!([uid, gid, mtime, major, minor, check], [0; 6]);
                prop_assert_eq!(inode as usize, index + 1);
                prop_assert_eq!(size as usize, data.len());
                if let Some((parent, _)) = path.rsplit_once('/') {
                    let folder = found[..index].iter().find(|(name, ..)| name == parent).unwrap();
                    prop_assert_eq!(folder.1[1], 0o040_755);
                }
                let (want_mode, want_data, device) = match entries.get(path) {
                    None | Some(Entry::Folder) => (0o040_755, Vec::new(), (0, 0)),
                    Some(Entry::File { mode, data }) => (0o100_000 | mode, data.clone(), (0, 0)),
                    Some(Entry::Symlink(target)) => (0o120_777, target.clone().into_bytes(), (0, 0)),
                    Some(Entry::CharDevice { mode, major, minor }) => (0o020_000 | mode, Vec::new(), (*major, *minor)),
                };
                prop_assert_eq!((mode, data, (rmajor, rminor)), (want_mode, &want_data, device));
                prop_assert_eq!(links, if mode == 0o040_755 { 2 } else { 1 });
            }
            prop_assert!(entries.keys().all(|path| found.iter().any(|(name, ..)| name == path)));
        }
    }

    #[test]
    fn refuses_what_the_kernel_would_not_unpack() {
        let mut cpio = Cpio::default();
        assert!(cpio.file(&"x".repeat(4096), "").build().is_err());
        assert!(Cpio::default().file("a\0b", "").build().is_err());
    }
}
