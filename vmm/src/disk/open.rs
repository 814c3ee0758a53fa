//! From a path or a descriptor to a disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, fstatfs, ioctl_blkpbszget, ioctl_blksszget, statx,
};

use super::lengths::Lengths;
use super::segments::AlignedBuffer;
use super::uring::Uring;
use super::{Backend, Error, Geometry, Raw, SECTOR, lock, qcow2};
use crate::config::{BlockSize, DiskConfig, DiskFormat, FileRef, IoEngine, Overlay};

/// The most backing files under one image.
pub const MAX_CHAIN: usize = 64;
/// What qcow2 images begin with.
const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Opens the disk that `spec` describes, and adds all that it stands on to `chain`.
pub fn open(spec: &DiskConfig, chain: &mut Chain) -> Result<Box<dyn Backend>, Error> {
    let base_is_read = spec.readonly || spec.overlay.is_some();
    let base = Opened::new(&spec.path, !base_is_read, spec.direct, chain)?;
    let format = base.format(spec.format)?;
    let disk = match (&spec.overlay, format) {
        (None, DiskFormat::Raw) => return base.into_raw(spec),
        (None, DiskFormat::Qcow2) => qcow2::Disk::new(base, !spec.readonly, chain)?,
        (Some(overlay), format) => {
            let (overlay, keeps) = match overlay {
                Overlay::Tmp => (Opened::temporary(chain)?, false),
                Overlay::File(file) => (Opened::create(file, spec.direct, chain)?, true),
            };
            qcow2::Disk::over(base, format, overlay, keeps, chain)?
        }
    };
    Ok(Box::new(disk.with_physical_block(physical_block(spec))))
}

fn physical_block(spec: &DiskConfig) -> Option<u32> {
    spec.physical_block_size.map(BlockSize::bytes)
}

/// The images that a disk consists of.
#[derive(Debug, Default)]
pub struct Chain {
    /// All, in the order in which they were opened.
    pub images: Vec<Image>,
    /// Those that a library reads.
    pub(super) lengths: Lengths,
}

/// One of a disk's images.
#[derive(Debug)]
pub struct Image {
    /// What to call it.
    pub name: String,
    /// As [`identity`] says.
    pub identity: (u64, u64),
    /// Whether it may be written.
    pub writes: bool,
}

/// What tells a file from others, whatever it is called: device and inode of a regular file; 0 and the device of a block
/// device. Nothing else can be an image.
#[inline]
pub fn identity(file: &File) -> io::Result<Option<(u64, u64)>> {
    let stat = fstat(file)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some((stat.st_dev, stat.st_ino)),
        FileType::BlockDevice => Some((0, stat.st_rdev)),
        _ => None,
    })
}

impl Chain {
    /// Adds an image; fails if it is there already, or one too many.
    fn add(&mut self, image: Image) -> Result<(), Error> {
        if self.images.iter().any(|other| other.identity == image.identity) {
            return Err(Error::Loop(image.name));
        }
        if self.images.len() > MAX_CHAIN {
            return Err(Error::TooDeep { name: image.name, limit: MAX_CHAIN });
        }
        self.images.push(image);
        Ok(())
    }
}

/// An open image, locked.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: File,
    /// What to call it.
    pub name: String,
    /// Its path, if it was opened by one.
    pub path: Option<PathBuf>,
    /// Whether it may be written.
    pub writes: bool,
    /// Whether it is open with `O_DIRECT`.
    pub direct: bool,
    is_device: bool,
}

impl Opened {
    /// Opens an image, and locks it: alone to write, with others to read.
    pub fn new(source: &FileRef, writes: bool, direct: bool, chain: &mut Chain) -> Result<Self, Error> {
        let name = source.to_string();
        let file =
            source.open_image(writes, direct).map_err(|source| Error::Open { name: name.clone(), source })?;
        let path = if let FileRef::Path(path) = source { Some(path.clone()) } else { None };
        Self { file, name, path, writes, direct, is_device: false }.checked(chain)
    }

    /// Opens an image to write, and creates it if it is not there.
    fn create(source: &FileRef, direct: bool, chain: &mut Chain) -> Result<Self, Error> {
        if let FileRef::Path(path) = source {
            let created = File::options().write(true).create_new(true).open(path);
            match created {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::Open { name: source.to_string(), source: e });
                }
                _ => {}
            }
        }
        Self::new(source, true, direct, chain)
    }

    /// A file without a name, which is gone when the VM is.
    fn temporary(chain: &mut Chain) -> Result<Self, Error> {
        let folder = std::env::temp_dir();
        let name = format!("overlay=tmp in {}", folder.display());
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&folder, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::Open { name: name.clone(), source: e.into() })?;
        Self { file: file.into(), name, path: None, writes: true, direct: false, is_device: false }
            .checked(chain)
    }

    /// Sees to it that this is an image, one that is not in the chain yet, and that nobody else is in the way.
    fn checked(mut self, chain: &mut Chain) -> Result<Self, Error> {
        let Some(identity) = identity(&self.file).map_err(|e| self.failed(e))? else {
            return Err(Error::NoDisk(self.name));
        };
        self.is_device = identity.0 == 0;
        chain.add(Image { name: self.name.clone(), identity, writes: self.writes })?;
        match lock::lock(&self.file, self.writes) {
            Ok(()) => Ok(self),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Err(Error::Locked { name: self.name, writes: self.writes, holder: None })
            }
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Its path from the root, if it has one still.
    pub(super) fn full_path(&self) -> Option<PathBuf> {
        let descriptor = || format!("/proc/self/fd/{}", self.file.as_raw_fd()).into();
        self.path.clone().unwrap_or_else(descriptor).canonicalize().ok()
    }

    /// The folder that names in the image are relative to.
    pub fn folder(&self) -> Option<&Path> {
        self.path.as_deref()?.parent()
    }

    /// Its bytes.
    pub fn size(&self) -> Result<u64, Error> {
        (&self.file).seek(SeekFrom::End(0)).map_err(|e| self.failed(e))
    }

    /// Its bytes, which have to be a whole number of blocks of this size.
    pub fn whole(&self, block: u32) -> Result<u64, Error> {
        let size = self.size()?;
        if size == 0 || !size.is_multiple_of(block.into()) {
            return Err(Error::Size { name: self.name.clone(), size, block });
        }
        Ok(size)
    }

    /// What it is said to be. Contents never make an image qcow2, since a guest that writes to a raw image could then
    /// name files of the host as its backing files; but they do make a raw image doubtful.
    pub fn format(&self, said: Option<DiskFormat>) -> Result<DiskFormat, Error> {
        let by_name = || {
            let extension = self.path.as_deref()?.extension()?;
            (extension == "qcow2").then_some(DiskFormat::Qcow2)
        };
        match said.or_else(by_name) {
            Some(format) => Ok(format),
            None if self.starts_as_qcow2() => Err(Error::Ambiguous(self.name.clone())),
            None => Ok(DiskFormat::Raw),
        }
    }

    /// Whether it begins as qcow2 images do.
    pub fn starts_as_qcow2(&self) -> bool {
        self.head().starts_with(&MAGIC)
    }

    /// Its first bytes, up to 4096 of them; none if they cannot be read.
    pub fn head(&self) -> Vec<u8> {
        self.page(0)
    }

    /// As [`Opened::head`], from a multiple of 4096 on.
    pub fn page(&self, at: u64) -> Vec<u8> {
        // As many as any O_DIRECT wants, at an address that it takes.
        let mut buffer = AlignedBuffer::new(4096, 4096);
        let read = self.file.read_at(buffer.bytes(), at).unwrap_or(0);
        buffer.bytes()[..read].to_vec()
    }

    /// What kernel and file system say of its blocks.
    fn geometry(&self, physical: Option<u32>) -> Result<(Geometry, usize), Error> {
        let (mut logical, mut native, mut align) = (SECTOR as u32, 4096, 1);
        if self.is_device {
            logical = ioctl_blksszget(&self.file).map_err(|e| self.failed(e.into()))?;
            native = ioctl_blkpbszget(&self.file).map_err(|e| self.failed(e.into()))?;
        }
        if self.direct {
            align = 4096;
            // Kernels before 6.1 and some file systems do not tell.
            if let Ok(stat) = statx(&self.file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
                && stat.stx_dio_offset_align.is_power_of_two()
                && stat.stx_dio_mem_align.is_power_of_two()
            {
                logical = logical.max(stat.stx_dio_offset_align);
                align = stat.stx_dio_mem_align as usize;
            }
        }
        let size = self.whole(logical)?;
        let physical_block = physical.unwrap_or(native).max(logical);
        let geometry = Geometry { size, logical_block: logical, physical_block, readonly: !self.writes };
        Ok((geometry, align))
    }

    fn into_raw(self, spec: &DiskConfig) -> Result<Box<dyn Backend>, Error> {
        let (geometry, align) = self.geometry(physical_block(spec))?;
        let (cached, in_memory) = (!self.direct, self.is_in_memory());
        let raw = Raw::new(self.file, geometry, align);
        // There nothing is waited for, and plain calls are half of what io_uring takes.
        if spec.io == IoEngine::Sync || spec.io == IoEngine::Auto && in_memory {
            return Ok(Box::new(raw));
        }
        let mut disk = Uring::new(raw, cached);
        if spec.io == IoEngine::Uring {
            disk.ring().map_err(|source| Error::Uring { name: self.name, source })?;
        }
        Ok(Box::new(disk))
    }

    /// Whether it is in a file system that has nothing but memory behind it.
    fn is_in_memory(&self) -> bool {
        const TMPFS: i64 = 0x0102_1994;
        const RAMFS: i64 = 0x8584_58f6;
        const HUGETLBFS: i64 = 0x9584_58f6;
        fstatfs(&self.file).is_ok_and(|it| [TMPFS, RAMFS, HUGETLBFS].contains(&it.f_type))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Open { name: self.name.clone(), source }
    }
}
