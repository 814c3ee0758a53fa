//! What a firmware is told: the items of fw_cfg, as data.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;

use abi::bundle;
use abi::fw_cfg::{File, NAME_MAX, key, name};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;
use zerocopy::IntoBytes;

use super::super::FilePart;

/// Bytes of an item: those of its parts, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Content(Vec<Part>);

/// A piece of an item.
#[derive(Clone, Debug)]
pub enum Part {
    /// Made by a loader.
    Bytes(Vec<u8>),
    /// In a file, and read when the firmware asks for it.
    File(FilePart),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(part) => part.len,
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(vec![Part::Bytes(bytes)])
    }
}

impl From<FilePart> for Content {
    fn from(part: FilePart) -> Self {
        Self(vec![Part::File(part)])
    }
}

impl FromIterator<Part> for Content {
    fn from_iter<T: IntoIterator<Item = Part>>(parts: T) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl Content {
    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(Part::len).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `to` with the bytes from `offset` on; behind the end with zeros, as the device reads there.
    pub fn read(&self, mut offset: u64, mut to: &mut [u8]) -> io::Result<()> {
        for part in &self.0 {
            let len = part.len();
            if offset >= len {
                offset -= len;
                continue;
            }
            let here = (len - offset).min(to.len() as u64) as usize;
            let (now, rest) = to.split_at_mut(here);
            match part {
                Part::Bytes(bytes) => now.copy_from_slice(&bytes[offset as usize..offset as usize + here]),
                Part::File(part) => part.file.read_exact_at(now, part.offset + offset)?,
            }
            (to, offset) = (rest, 0);
        }
        to.fill(0);
        Ok(())
    }
}

impl Content {
    /// As [`Self::read`], to guest memory.
    pub fn fill<B: BitmapSlice>(&self, mut offset: u64, to: &VolatileSlice<'_, B>) -> io::Result<()> {
        let mut done = 0;
        for part in &self.0 {
            let len = part.len();
            if offset >= len {
                offset -= len;
                continue;
            }
            let here = (len - offset).min((to.len() - done) as u64) as usize;
            let now = to.subslice(done, here).map_err(io::Error::other)?;
            match part {
                Part::Bytes(bytes) => now.copy_from(&bytes[offset as usize..offset as usize + here]),
                Part::File(part) => copy(part, offset, &now)?,
            }
            (done, offset) = (done + here, 0);
        }
        for start in (done..to.len()).step_by(ZEROS.len()) {
            to.offset(start).map_err(io::Error::other)?.copy_from(&ZEROS);
        }
        Ok(())
    }
}

static ZEROS: [u8; 4096] = [0; 4096];
/// How much passes through a buffer at once.
const CHUNK: usize = 256 << 10;

/// Fills `to` from `offset` of a part of a file on.
fn copy<B: BitmapSlice>(part: &FilePart, offset: u64, to: &VolatileSlice<'_, B>) -> io::Result<()> {
    let mut buffer = vec![0; to.len().min(CHUNK)];
    for start in (0..to.len()).step_by(CHUNK) {
        let chunk = &mut buffer[..(to.len() - start).min(CHUNK)];
        part.file.read_exact_at(chunk, part.offset + offset + start as u64)?;
        to.offset(start).map_err(io::Error::other)?.copy_from(chunk);
    }
    Ok(())
}

/// A file that cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// Longer than the directory has room for.
    #[error("a name has 1 to {NAME_MAX} bytes without NUL")]
    Form,
    /// Given twice, or by this program itself.
    #[error("there is one already")]
    Taken,
}

/// All items.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    items: BTreeMap<u16, Content>,
    files: Vec<([u8; NAME_MAX + 1], Content)>,
}

impl Contents {
    /// Sets an item that has no name.
    pub fn set(&mut self, selector: u16, content: impl Into<Content>) {
        self.items.insert(selector, content.into());
    }

    /// Sets an item that is a number of four bytes.
    pub fn number(&mut self, selector: u16, value: u32) {
        self.set(selector, value.to_le_bytes().to_vec());
    }

    /// Adds a file.
    pub fn file(&mut self, file: &str, content: impl Into<Content>) -> Result<(), FileError> {
        if file.is_empty() || file.len() > NAME_MAX || file.contains('\0') {
            return Err(FileError::Form);
        }
        let file = name(file);
        if self.files.iter().any(|(other, _)| *other == file) {
            return Err(FileError::Taken);
        }
        self.files.push((file, content.into()));
        Ok(())
    }

    /// The item of a selector.
    #[must_use]
    pub fn get(&self, selector: u16) -> Option<&Content> {
        match selector.checked_sub(key::FILE_FIRST) {
            Some(index) if selector != bundle::KEY => {
                self.files.get(usize::from(index)).map(|(_, content)| content)
            }
            _ => self.items.get(&selector),
        }
    }

    /// The content of a file.
    #[must_use]
    pub fn named(&self, file: &str) -> Option<&Content> {
        let bytes = |name: &[u8; NAME_MAX + 1]| name.split(|&byte| byte == 0).next() == Some(file.as_bytes());
        self.files.iter().find(|(name, _)| bytes(name)).map(|(_, content)| content)
    }

    /// Makes the item that has the first bytes of others, for a firmware that knows it ([`abi::bundle`]).
    pub fn bundle(&mut self) -> io::Result<()> {
        const NUMBERS: [u16; 6] = [
            key::KERNEL_ADDR,
            key::KERNEL_SIZE,
            key::KERNEL_ENTRY,
            key::INITRD_SIZE,
            key::CMDLINE_SIZE,
            key::SETUP_SIZE,
        ];
        const DATA: usize = size_of::<bundle::Header>() + bundle::COUNT_MAX * size_of::<bundle::Entry>();
        let whole = |select| (select, self.get(select).map_or(0, Content::len));
        let setup = whole(key::SETUP_DATA).1.min(1) * bundle::SETUP_LEN as u64;
        let files = (0..self.files.len() as u16).map(|index| whole(key::FILE_FIRST + index));
        let wanted = NUMBERS.map(|select| (select, 4)).into_iter();
        let wanted = wanted.chain([key::FILE_DIR, key::CMDLINE_DATA].map(whole));
        let wanted = wanted.chain([(key::SETUP_DATA, setup)]).chain(files);
        let mut entries: Vec<bundle::Entry> = Vec::with_capacity(bundle::COUNT_MAX);
        let mut bytes = Vec::with_capacity(bundle::LEN);
        bytes.resize(DATA, 0);
        for (select, len) in wanted {
            let at = bytes.len();
            if len == 0 || len > (bundle::LEN - at) as u64 || entries.len() == bundle::COUNT_MAX {
                continue;
            }
            let end = at + len as usize;
            bytes.resize(end.next_multiple_of(8), 0);
            if let Some(content) = self.get(select) {
                content.read(0, &mut bytes[at..end])?;
            }
            let (len, offset) = ((len as u16).into(), (at as u32).into());
            entries.push(bundle::Entry { select: select.into(), len, offset });
        }
        let count = (entries.len() as u32).into();
        let header = bundle::Header { magic: bundle::MAGIC, count, reserved: 0.into() };
        let (head, list) = bytes[..DATA].split_at_mut(size_of::<bundle::Header>());
        head.copy_from_slice(header.as_bytes());
        list[..entries.as_bytes().len()].copy_from_slice(entries.as_bytes());
        self.set(bundle::KEY, bytes);
        Ok(())
    }

    /// Makes the item by which a firmware finds the files.
    pub fn list_files(&mut self) {
        let mut bytes = (self.files.len() as u32).to_be_bytes().to_vec();
        for (index, (name, content)) in self.files.iter().enumerate() {
            let entry = File {
                size: u32::try_from(content.len()).unwrap_or(u32::MAX).into(),
                select: (key::FILE_FIRST + index as u16).into(),
                reserved: 0.into(),
                name: *name,
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        self.set(key::FILE_DIR, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_read_as_one(parts in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)), 0..5),
                             offset in 0u64..100, len in 0usize..100) {
            let whole: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let content: Content = parts.into_iter().map(|(in_file, bytes)| {
                if !in_file {
                    return Part::Bytes(bytes);
                }
                let len = bytes.len() as u64;
                Part::File(FilePart { file: testing::file(&[b"ab", &bytes[..]].concat()), offset: 2, len })
            }).collect();
            prop_assert_eq!(content.len(), whole.len() as u64);
            let mut found = vec![0xff; len];
            content.read(offset, &mut found).unwrap();
            let mut filled = vec![0xff; len];
            content.fill(offset, &VolatileSlice::from(&mut filled[..])).unwrap();
            prop_assert_eq!(&filled, &found);
            let expected: Vec<u8> =
                whole.into_iter().skip(offset as usize).chain(std::iter::repeat(0)).take(len).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_small_is_bundled() {
        let mut contents = Contents::default();
        contents.number(key::KERNEL_SIZE, 7);
        contents.file("etc/large", vec![1; bundle::LEN]).unwrap();
        contents.file("etc/small", vec![2; 13]).unwrap();
        contents.list_files();
        contents.bundle().unwrap();
        let bundle = contents.get(bundle::KEY).unwrap();
        let mut bytes = vec![0; bundle.len() as usize];
        bundle.read(0, &mut bytes).unwrap();
        assert!(bytes.len() <= bundle::LEN && bytes[..8] == bundle::MAGIC);
        let item = |key: u16| {
            let entries = bytes[16..].chunks(8).take(usize::from(bytes[8]));
            let entry = entries.into_iter().find(|entry| entry[..2] == key.to_le_bytes())?;
            let at = usize::from(entry[4]) | usize::from(entry[5]) << 8;
            Some(&bytes[at..at + usize::from(entry[2]) + (usize::from(entry[3]) << 8)])
        };
        assert_eq!(item(key::KERNEL_SIZE), Some(&[7, 0, 0, 0][..]));
        assert_eq!(item(key::INITRD_SIZE), Some(&[0; 4][..]), "what is not there reads as zeros");
        assert_eq!(item(key::FILE_DIR).map(<[u8]>::len), Some(4 + 2 * 64));
        assert_eq!((item(key::FILE_FIRST), item(key::FILE_FIRST + 1)), (None, Some(&[2; 13][..])));
        assert_eq!(item(key::SETUP_DATA), None);
    }

    #[test]
    fn files_are_listed() {
        let mut contents = Contents::default();
        contents.file("etc/one", vec![1]).unwrap();
        contents.file("opt/two", vec![2; 300]).unwrap();
        assert!(matches!(contents.file("etc/one", vec![]), Err(FileError::Taken)));
        assert!(matches!(contents.file("", vec![]), Err(FileError::Form)));
        assert!(matches!(contents.file(&"x".repeat(56), vec![]), Err(FileError::Form)));
        contents.list_files();
        let mut directory = [0; 4 + 2 * 64];
        contents.get(0x19).unwrap().read(0, &mut directory).unwrap();
        assert_eq!(directory[..16], *b"\0\0\0\x02\0\0\0\x01\0\x20\0\0etc/");
        assert_eq!(directory[68..80], *b"\0\0\x01\x2c\0\x21\0\0opt/");
        assert_eq!(contents.get(0x21).unwrap().len(), 300);
        assert!(contents.get(0x22).is_none() && contents.get(0x00).is_none());
        assert_eq!(contents.named("opt/two").map(Content::len), Some(300));
    }
}
