//! qcow2 images, and overlays, which are qcow2 images too; by the library imago.

use std::io;
use std::mem::take;
use std::path::PathBuf;

use imago::file::File as Storage;
use imago::format::builder::{FormatCreateBuilder, FormatDriverBuilder};
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, StorageOpenOptions};

use super::lengths::Lengths;
use super::open::{Chain, Opened};
use super::{Backend, Error, Geometry, Operation, SECTOR};
use crate::config::{DiskFormat, FileRef};

type Access = FormatAccess<Storage>;
type Image = Qcow2<Storage>;

/// A disk in qcow2 format.
#[derive(Debug)]
pub struct Disk {
    image: Access,
    lengths: Lengths,
    geometry: Geometry,
}

impl Disk {
    /// The disk in `image`, with the backing files that it names.
    pub fn new(image: Opened, writes: bool, chain: &mut Chain) -> Result<Self, Error> {
        let name = image.name.clone();
        Self::of_access(qcow2(image, chain)?, &name, writes, chain)
    }

    /// The disk in `base`, with all that is written kept in `overlay`: a qcow2 image, or empty and then made one, which
    /// names its base if it `keeps` what it has.
    pub fn over(
        base: Opened,
        format: DiskFormat,
        overlay: Opened,
        keeps: bool,
        chain: &mut Chain,
    ) -> Result<Self, Error> {
        let (name, base_name, base_path) = (overlay.name.clone(), base.name.clone(), base.full_path());
        let base = layer(base, format, chain)?;
        let size = sectors(base.size(), &base_name)?;
        let is_new = overlay.size()? == 0;
        let fail = |e: io::Error| broken(&name, &e);
        let counted = is_new || counts_header(&overlay).unwrap_or(false);
        if !is_new {
            refuse_encrypted(&overlay)?;
        }
        let storage = storage(overlay, chain)?;
        let mut image = if is_new {
            let mut builder = Image::create_builder(storage).size(size);
            match base_path.and_then(|path| path.into_os_string().into_string().ok()) {
                Some(path) => builder = builder.backing(path, format.name().to_owned()),
                // Opened by itself, it would read as zeroes where the base has something.
                None if keeps => return Err(Error::Nameless { name: base_name, overlay: name }),
                None => {}
            }
            let open = |storage| Ok(Image::builder(storage).backing(None).write(true));
            builder.create_open(DenyImplicitOpenGate::default(), open).map_err(fail)?
        } else {
            Image::open_image(storage, true).map_err(fail)?
        };
        refuse_unknown(&name, &image)?;
        refuse_uncounted(&name, counted)?;
        image.set_data_file(None);
        image.set_backing(Some(base));
        let image = Access::new(image);
        if image.size() != size {
            return Err(Error::OverlaySize { name, overlay: image.size(), base: size });
        }
        Self::of_access(image, &name, true, chain)
    }

    fn of_access(image: Access, name: &str, writes: bool, chain: &mut Chain) -> Result<Self, Error> {
        let size = sectors(image.size(), name)?;
        let geometry =
            Geometry { size, logical_block: SECTOR as u32, physical_block: 4096, readonly: !writes };
        Ok(Self { image, lengths: take(&mut chain.lengths), geometry })
    }

    /// With physical blocks of so many bytes, if they are said.
    pub fn with_physical_block(mut self, bytes: Option<u32>) -> Self {
        self.geometry.physical_block = bytes.unwrap_or(self.geometry.physical_block);
        self
    }

    fn flush(&self) -> io::Result<()> {
        self.image.flush()?;
        self.image.sync()
    }

    fn flush_if(&self, durable: bool) -> io::Result<()> {
        if durable { self.flush() } else { Ok(()) }
    }

    fn work(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        match *operation {
            Operation::Read { offset, to } => {
                let (vector, _memory) = IoVectorMut::from_volatile_slice(to);
                self.image.readv(vector, offset)
            }
            Operation::Write { offset, from, durable } => {
                let (vector, _memory) = IoVector::from_volatile_slice(from);
                self.image.writev(vector, offset).and_then(|()| self.flush_if(durable))
            }
            Operation::WriteZeroes { offset, len, unmap, durable } => {
                let zeroed = match unmap {
                    true => self.image.discard_to_zero(offset, len),
                    false => self.image.write_zeroes(offset, len),
                };
                zeroed.and_then(|()| self.flush_if(durable))
            }
            // Space that is given back reads as zeroes, not as what the backing file has there.
            Operation::Discard { offset, len } => self.image.discard_to_zero(offset, len),
            Operation::Flush => self.flush(),
        }
    }
}

impl Backend for Disk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn start(&mut self, _: u16, operation: &Operation<'_>) -> Option<io::Result<()>> {
        // What reads has to be sure of it when it has read; what writes might make an image as long as it was, or longer.
        let before = if let Operation::Read { .. } = operation { Ok(()) } else { self.lengths.check() };
        Some(before.and_then(|()| self.work(operation)).and_then(|()| self.lengths.check()))
    }
}

/// The bytes of a disk, which have to be whole sectors.
fn sectors(size: u64, name: &str) -> Result<u64, Error> {
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(Error::Size { name: name.to_owned(), size, block: SECTOR as u32 });
    }
    Ok(size)
}

/// The qcow2 image in a file, on top of the backing files that it names.
fn qcow2(opened: Opened, chain: &mut Chain) -> Result<Access, Error> {
    let (name, writes, direct) = (opened.name.clone(), opened.writes, opened.direct);
    let folder = opened.folder().map(ToOwned::to_owned);
    refuse_encrypted(&opened)?;
    let counted = !writes || counts_header(&opened).unwrap_or(false);
    let mut image = Image::open_image(storage(opened, chain)?, writes).map_err(|e| broken(&name, &e))?;
    refuse_unknown(&name, &image)?;
    refuse_uncounted(&name, counted)?;
    image.set_data_file(None);
    let backing = match image.implicit_backing_file() {
        None => None,
        Some(file) => {
            let format = image.implicit_backing_format().map(String::as_str);
            let path = folder.map_or_else(|| file.into(), |folder| folder.join(file));
            let source = backing(path, format, direct, chain);
            Some(source.map_err(|e| Error::Backing { of: name, source: Box::new(e) })?)
        }
    };
    image.set_backing(backing);
    Ok(Access::new(image))
}

/// A backing file. `format` is what the image on top says of it.
fn backing(path: PathBuf, format: Option<&str>, direct: bool, chain: &mut Chain) -> Result<Access, Error> {
    let base = Opened::new(&FileRef::Path(path), false, direct, chain)?;
    let format = match format {
        Some("qcow2") => DiskFormat::Qcow2,
        Some("raw") => DiskFormat::Raw,
        Some(other) => {
            let reason = format!("is said to have the format {other:?}, which is neither raw nor qcow2");
            return Err(Error::Qcow2 { name: base.name, reason });
        }
        None => base.format(None)?,
    };
    layer(base, format, chain)
}

fn layer(opened: Opened, format: DiskFormat, chain: &mut Chain) -> Result<Access, Error> {
    match format {
        DiskFormat::Qcow2 => qcow2(opened, chain),
        DiskFormat::Raw => {
            let name = opened.name.clone();
            Ok(Access::new(Raw::open_image(storage(opened, chain)?, false).map_err(|e| broken(&name, &e))?))
        }
    }
}

fn storage(opened: Opened, chain: &mut Chain) -> Result<Storage, Error> {
    let Opened { file, name, path, writes, direct, .. } = opened;
    chain.lengths.add(&file).map_err(|e| broken(&name, &e))?;
    let mut options = StorageOpenOptions::new().write(writes).direct(direct);
    if let Some(path) = path {
        options = options.filename(path);
    }
    Storage::from_open_file(file, options).map_err(|e| broken(&name, &e))
}

/// The library reads encrypted clusters as if they were not.
fn refuse_encrypted(opened: &Opened) -> Result<(), Error> {
    /// Offset of `crypt_method` in the header, which is 0 without encryption.
    const CRYPT_METHOD: usize = 32;
    if !opened.starts_as_qcow2() {
        let reason = "is not a qcow2 image, which an overlay or format=qcow2 asks for: name another file";
        return Err(Error::Qcow2 { name: opened.name.clone(), reason: reason.to_owned() });
    }
    match opened.head().get(CRYPT_METHOD..CRYPT_METHOD + 4) {
        Some([0, 0, 0, 0]) => Ok(()),
        Some(_) => Err(Error::Qcow2 { name: opened.name.clone(), reason: "is encrypted".to_owned() }),
        None => Err(Error::Qcow2 { name: opened.name.clone(), reason: "too short for qcow2".to_owned() }),
    }
}

/// An image counts who refers to each of its clusters, its header's first. The library would look for ever for room for the
/// counts of one that does not.
fn refuse_uncounted(name: &str, counted: bool) -> Result<(), Error> {
    if counted {
        return Ok(());
    }
    let reason = "has no reference counts: repair it (`qemu-img check -r all`)".to_owned();
    Err(Error::Qcow2 { name: name.to_owned(), reason })
}

/// Whether the image's first cluster is in use by what the first refcount block says; nothing if that is not to be found.
fn counts_header(opened: &Opened) -> Option<bool> {
    const VERSION: usize = 4;
    const CLUSTER_BITS: usize = 20;
    const REFCOUNT_TABLE_OFFSET: usize = 48;
    const REFCOUNT_TABLE_CLUSTERS: usize = 56;
    /// From version 3 on.
    const REFCOUNT_ORDER: usize = 96;
    let head = opened.head();
    let word = |at: usize| head.get(at..)?.first_chunk().copied().map(u64::from_be_bytes);
    let dword = |at| word(at).map(|word| (word >> 32) as u32);
    // Clusters have 512 bytes or more, and a page holds the first of each whole.
    let first = |at: u64| opened.page(at & !4095).get((at & 4095) as usize..)?.first_chunk::<8>().copied();
    let cluster = 1_u64.checked_shl(dword(CLUSTER_BITS)?)?;
    let place = |offset: u64| (offset != 0 && offset.is_multiple_of(cluster)).then_some(offset);
    let table = place(word(REFCOUNT_TABLE_OFFSET)?)?;
    let block = place(u64::from_be_bytes(first(table)?) & !511)?;
    let bits = 1_u32.checked_shl(if dword(VERSION)? < 3 { 4 } else { dword(REFCOUNT_ORDER)? })?;
    let counts = first(block)?;
    // Counts of less than a byte begin at its low bits.
    let count = match bits {
        ..8 => u64::from(counts[0]) & ((1 << bits) - 1),
        8..=64 => u64::from_be_bytes(counts) >> (64 - bits),
        _ => return None,
    };
    Some(dword(REFCOUNT_TABLE_CLUSTERS)? != 0 && count != 0)
}

fn refuse_unknown(name: &str, image: &Image) -> Result<(), Error> {
    if image.requires_external_data_file() {
        let reason = "keeps its data in another file: convert it (`qemu-img convert`)".to_owned();
        return Err(Error::Qcow2 { name: name.to_owned(), reason });
    }
    Ok(())
}

/// What the library says, in one line.
fn broken(name: &str, error: &io::Error) -> Error {
    let reason = crate::config::OneLine(&error.to_string()).to_string();
    Error::Qcow2 { name: name.to_owned(), reason }
}
