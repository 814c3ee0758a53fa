//! Gets the unpacked form of a `bzImage`: from the cache, or by unpacking it.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{MemfdFlags, memfd_create};

use super::bzimage::BzImage;
use super::cache::{Cache, Key};
use super::elf::{self, Elf};
use super::error::KernelError;
pub use super::image::Image;
use super::read::{ReadAt, read_vec};
use super::relocs::Relocs;
use super::{image, unpack};

/// Where the unpacked form of a kernel came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the cache.
    Cache,
    /// It was unpacked, and is in the cache now.
    Unpacked,
    /// It was unpacked, and could not be kept: why.
    NotKept(String),
}

/// The unpacked form of `bzimage`, which was read from `file` just `now`.
pub fn get(
    file: &File,
    bzimage: &BzImage,
    cache: Option<&Path>,
    with_relocs: bool,
    now: SystemTime,
) -> Result<(Image, Origin), KernelError> {
    let key = Key::new(&file.metadata()?);
    let cache = match cache.map(Cache::open) {
        Some(Ok(cache)) => Ok(cache),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("there is no cache".to_owned()),
    };
    if let Ok(cache) = &cache
        && let Some(entry) = cache.get(&key)
        && let Ok(Some(image)) = Image::open(entry, &key, with_relocs)
        && is_sound(&image, bzimage)
    {
        return Ok((image, Origin::Cache));
    }
    let (bytes, elf, relocs) = unpack(file, bzimage)?;
    let fill = |into: &File| image::write(into, key, &elf, &bytes, &relocs);
    // What changed while it was read, or may change unnoticed, is used but not kept.
    let kept = cache.and_then(|cache| {
        let same = file.metadata().is_ok_and(|meta| Key::new(&meta) == key);
        if !same || !key.is_settled(now) {
            return Err("it was changed a moment ago".to_owned());
        }
        cache.put(&key, fill).map_err(|error| error.to_string())
    });
    let (file, origin) = match kept {
        Ok(file) => (file, Origin::Unpacked),
        Err(why) => {
            let file = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?);
            fill(&file)?;
            (file, Origin::NotKept(why))
        }
    };
    let image = Image::open(file, &key, with_relocs)?.filter(|image| is_sound(image, bzimage));
    let (value, why) = (bzimage.setup.pref_address, "the unpacked kernel is not where it says");
    let image = image.ok_or(KernelError::Field { field: "pref_address (0x258)", value, why })?;
    Ok((image, origin))
}

/// Unpacks a kernel: its bytes, what they say, and the relocations that follow them.
fn unpack(file: &File, bzimage: &BzImage) -> Result<(Vec<u8>, Elf, Relocs), KernelError> {
    let payload = &bzimage.payload;
    let packed = read_vec(file, file.size()?, "the packed kernel", payload.start, payload.len)?;
    let len = bzimage.unpacked_len(&packed)?;
    let bytes = unpack::unpack(&packed[..packed.len() - 4], len)?;
    let elf = Elf::parse(&bytes[..])?;
    if !elf.is_64bit {
        return Err(KernelError::No64Bit { why: "it unpacks to ELF32" });
    }
    if !elf.has_code_at(elf.entry) {
        return Err(KernelError::Entry(elf.entry));
    }
    let end = elf::content_end(&bytes[..])? as usize;
    let relocs = Relocs::parse(&bytes[end..], &elf)?;
    Ok((bytes, elf, relocs))
}

/// Whether all of `image` is where `bzimage` says that it is: from `pref_address` on, `init_size` bytes.
fn is_sound(image: &Image, bzimage: &BzImage) -> bool {
    let start = bzimage.setup.pref_address;
    let window = start..start + u64::from(bzimage.setup.init_size);
    let inside = |from: u64, len: u64| {
        from >= start && len <= window.end - start && from - start <= window.end - start - len
    };
    let (first, end) = image.extent;
    end.checked_sub(first).is_some_and(|len| inside(first, len))
        && inside(image.entry, 1)
        && image.pvh_entry.is_none_or(|entry| inside(entry.into(), 1))
        && image.runs.iter().all(|run| inside(run.addr.get(), run.len.get()))
        && image.runs.windows(2).all(|two| two[0].addr.get() + two[0].len.get() <= two[1].addr.get())
}

#[cfg(test)]
mod tests {
    use std::fs::{OpenOptions, Permissions, read_dir};
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::time::Duration;

    use super::super::testing;
    use super::*;

    #[test]
    fn a_kernel_is_unpacked_once() {
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let kernel = testing::file(&testing::bzimage(&testing::relocatable()));
        let bzimage = BzImage::parse(&*kernel).unwrap();
        let start = |age| {
            let now = SystemTime::now() + Duration::from_secs(age);
            let (image, origin) = get(&kernel, &bzimage, Some(folder.path()), true, now).unwrap();
            assert_eq!((image.runs.len(), image.relocs.add32.len()), (3, 2));
            origin
        };
        assert!(matches!(start(0), Origin::NotKept(why) if why.contains("a moment ago")));
        assert_eq!(start(10), Origin::Unpacked);
        assert_eq!(start(10), Origin::Cache);

        // What is in the cache is used only as long as it is whole.
        let entry = read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let entry = OpenOptions::new().write(true).open(entry).unwrap();
        let len = entry.metadata().unwrap().len();
        entry.set_len(len - 1).unwrap();
        assert_eq!(start(10), Origin::Unpacked);
        assert_eq!(start(10), Origin::Cache);
        let entry = read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        OpenOptions::new().write(true).open(entry).unwrap().write_all_at(b"?", 0).unwrap();
        assert_eq!(start(10), Origin::Unpacked);

        // Another file, or the same one changed, is another kernel.
        kernel.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(start(10), Origin::Unpacked);
    }
}
