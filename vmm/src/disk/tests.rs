//! Images on the way in, and operations on them against a model.

mod base_names;
mod empty;
mod hostile;
mod permissions;
mod shorter;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::{DiskConfig, DiskFormat, FileRef, HugePages, IoEngine, MemorySpec, Overlay};
use crate::memory::Memory;
use crate::memory::layout::RamLayout;

fn spec(path: &Path) -> DiskConfig {
    DiskConfig::new(FileRef::Path(path.into()))
}

fn open(spec: &DiskConfig) -> Result<Box<dyn Backend>, Error> {
    super::open(spec, &mut Chain::default())
}

fn image(folder: &Path, name: &str, contents: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, contents).unwrap();
    path
}

fn refusal(spec: &DiskConfig) -> String {
    let text = open(spec).err().expect("opened").to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Makes a qcow2 image of 1 MiB, on top of `base` if there is one.
fn qcow2(folder: &Path, name: &str, base: Option<&Path>) -> PathBuf {
    let base = base.map_or_else(|| image(folder, "base-of-qcow2.raw", &[0; 1 << 20]), Into::into);
    let path = folder.join(name);
    let format = Some(DiskFormat::Raw);
    let overlay = Some(Overlay::File(FileRef::Path(path.clone())));
    open(&DiskConfig { overlay, format, ..spec(&base) }).unwrap();
    path
}

/// Guest memory to read into and to write from.
struct Ram(Memory);

impl Ram {
    fn new() -> Self {
        let spec = MemorySpec { size: 4 << 20, huge: HugePages::Default, prealloc: true, shared: false };
        Self(Memory::new(&spec, &RamLayout::new(4 << 20)).unwrap())
    }

    /// Runs `with` on buffers of these lengths, which lie apart from each other from 1 MiB on.
    fn slices<R>(&self, lens: &[usize], with: impl FnOnce(&[Slice<'_>]) -> R) -> R {
        use vm_memory::GuestMemoryBackend;
        let map = self.0.map();
        let mut at = 1 << 20;
        let slice = |&len: &usize| {
            let slice = map.get_slice(vm_memory::GuestAddress(at), len).unwrap();
            at += len as u64 + 512;
            slice
        };
        let slices: Vec<_> = lens.iter().map(slice).collect();
        with(&slices)
    }

    fn write(&self, disk: &mut dyn Backend, offset: u64, data: &[u8], lens: &[usize]) -> io::Result<()> {
        self.slices(lens, |from| {
            let mut rest = data;
            for slice in from {
                slice.copy_from(rest);
                rest = &rest[slice.len()..];
            }
            run(disk, &Operation::Write { offset, from, durable: lens.len() == 1 })
        })
    }

    fn read(&self, disk: &mut dyn Backend, offset: u64, lens: &[usize]) -> io::Result<Vec<u8>> {
        self.slices(lens, |to| {
            run(disk, &Operation::Read { offset, to })?;
            let mut data = Vec::new();
            for slice in to {
                let start = data.len();
                data.resize(start + slice.len(), 0);
                slice.copy_to(&mut data[start..]);
            }
            Ok(data)
        })
    }
}

/// Begins an operation and waits for its end.
fn run(disk: &mut dyn Backend, operation: &Operation<'_>) -> io::Result<()> {
    if let Some(result) = disk.start(7, operation) {
        return result;
    }
    disk.submit()?;
    loop {
        disk.wait()?;
        if let Some((id, result)) = disk.completed() {
            assert_eq!(id, 7);
            return result;
        }
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let name = |name: &str| dir.join(name).display().to_string();
    assert_eq!(
        refusal(&spec(&dir.join("a"))),
        format!("{}: No such file or directory (os error 2)", name("a"))
    );
    assert!(refusal(&spec(dir)).contains("Is a directory"));
    let readonly = DiskConfig { readonly: true, ..spec(dir) };
    assert_eq!(refusal(&readonly), format!("{}: neither a regular file nor a block device", dir.display()));
    let null = spec(Path::new("/dev/null"));
    assert_eq!(refusal(&null), "/dev/null: neither a regular file nor a block device");
    let cut = format!(
        "{0}: 1000 bytes are no whole number of 512-byte blocks, so it is empty or was cut short \
         (`truncate -s %512 {0}` fills it up)",
        name("cut")
    );
    assert_eq!(refusal(&spec(&image(dir, "cut", &[0; 1000]))), cut);
    assert!(refusal(&spec(&image(dir, "empty", &[]))).contains("0 bytes are no whole number"));
    let disguised = refusal(&spec(&image(dir, "raw", b"QFI\xfb and more")));
    assert_eq!(
        disguised,
        format!(
            "{}: begins like a qcow2 image: say format=qcow2, or format=raw if a guest put that there",
            name("raw")
        )
    );
}

#[test]
fn one_writer_or_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "a", &[0; 512]);
    let readonly = DiskConfig { readonly: true, ..spec(&path) };
    let first = open(&readonly).unwrap();
    let second = open(&DiskConfig { overlay: Some(Overlay::Tmp), ..spec(&path) }).unwrap();
    assert!(
        refusal(&spec(&path)).ends_with(
            "is in use by another program: end that, or use overlay=…, which does not write to it"
        )
    );
    drop((first, second));
    let _writer = open(&spec(&path)).unwrap();
    assert!(refusal(&readonly).ends_with("is in use by another program that writes to it: end that first"));
}

#[test]
fn a_block_is_as_large_as_it_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, top) = (image(dir.path(), "a", &[0; 1 << 20]), qcow2(dir.path(), "top.qcow2", None));
    let over = DiskConfig { overlay: Some(Overlay::Tmp), ..spec(&raw) };
    for spec in [spec(&raw), over, spec(&top)] {
        for (said, bytes) in [(None, 4096), (Some("512"), 512), (Some("8K"), 8192)] {
            let physical_block_size = said.map(|said| said.parse().unwrap());
            let disk = open(&DiskConfig { physical_block_size, ..spec.clone() }).unwrap();
            assert_eq!(disk.geometry().physical_block, bytes, "{spec:?}");
        }
    }
}

#[test]
fn a_descriptor_is_taken_as_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "a", &[0; 512]);
    let file = fs::File::open(&path).unwrap();
    let by_fd = DiskConfig { path: FileRef::Fd(file.as_raw_fd()), ..spec(&path) };
    assert!(refusal(&by_fd).ends_with(": is not open to be read and written"));
    let direct = DiskConfig { direct: true, readonly: true, ..by_fd.clone() };
    assert!(refusal(&direct).contains("is not open with O_DIRECT"));
    assert_eq!(open(&DiskConfig { readonly: true, ..by_fd }).unwrap().geometry().size, 512);
}

#[test]
fn a_shorter_file_fails_and_a_readonly_one_cannot_be_written() {
    let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
    let path = image(dir.path(), "a", &[7; 8192]);
    let mut disk = open(&spec(&path)).unwrap();
    assert_eq!(ram.read(disk.as_mut(), 4096, &[4096]).unwrap(), [7; 4096]);
    fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert_eq!(ram.read(disk.as_mut(), 4096, &[4096]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(ram.read(disk.as_mut(), 0, &[512, 512]).unwrap(), [7; 1024]);
    drop(disk);
    let mut disk = open(&DiskConfig { readonly: true, ..spec(&path) }).unwrap();
    assert!(disk.geometry().readonly);
    assert!(ram.write(disk.as_mut(), 0, &[1; 512], &[512]).is_err());
}

#[test]
fn space_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
    let path = image(dir.path(), "a", &[7; 1 << 20]);
    let blocks = || fs::metadata(&path).unwrap().blocks();
    let mut disk = open(&spec(&path)).unwrap();
    let before = blocks();
    run(disk.as_mut(), &Operation::Discard { offset: 0, len: 1 << 19 }).unwrap();
    assert!(blocks() < before, "{before} blocks");
    run(disk.as_mut(), &Operation::WriteZeroes { offset: 1 << 19, len: 4096, unmap: false, durable: true })
        .unwrap();
    assert_eq!(ram.read(disk.as_mut(), (1 << 19) - 4096, &[12288]).unwrap()[..8192], [0; 8192]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
}

#[test]
fn an_overlay_leaves_its_base_alone_and_can_be_gone_on_with() {
    let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
    let base = image(dir.path(), "base", &[7; (1 << 20) + 512]);
    let file = dir.path().join("overlay");
    let overlay = DiskConfig { overlay: Some(Overlay::File(FileRef::Path(file.clone()))), ..spec(&base) };
    for round in 1..3_u8 {
        let mut disk = open(&overlay).unwrap();
        assert_eq!(disk.geometry().size, (1 << 20) + 512);
        let expected = if round == 1 { 7 } else { 1 };
        assert_eq!(ram.read(disk.as_mut(), 1 << 20, &[512]).unwrap(), [expected; 512]);
        ram.write(disk.as_mut(), 1 << 20, &[round; 512], &[256, 256]).unwrap();
        run(disk.as_mut(), &Operation::Discard { offset: 0, len: 1 << 17 }).unwrap();
        assert_eq!(ram.read(disk.as_mut(), 0, &[512]).unwrap(), [0; 512]);
        run(disk.as_mut(), &Operation::Flush).unwrap();
    }
    // The overlay names its base, so that it stands for itself; and other programs can make sense of it.
    let mut alone = open(&DiskConfig { format: Some(DiskFormat::Qcow2), ..spec(&file) }).unwrap();
    assert_eq!(ram.read(alone.as_mut(), (1 << 20) - 512, &[1024]).unwrap(), [[7; 512], [2; 512]].concat());
    drop(alone);
    assert!(fs::read(&base).unwrap().iter().all(|&byte| byte == 7));
    let other = image(dir.path(), "other", &[0; 1 << 20]);
    let text = refusal(&DiskConfig { path: FileRef::Path(other), ..overlay });
    assert!(text.contains("this overlay is of a disk of 1049088 bytes, the base has 1048576"), "{text}");
}

#[test]
fn broken_qcow2_images_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = fs::read(qcow2(dir, "good.qcow2", None)).unwrap();
    let with = |name: &str, changes: &[(usize, &[u8])]| {
        let mut bytes = good.clone();
        for (at, change) in changes {
            bytes[*at..*at + change.len()].copy_from_slice(change);
        }
        refusal(&spec(&image(dir, name, &bytes)))
    };
    let path = |name: &str| dir.join(name).display().to_string();
    let word = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap()) as usize;
    let table = word(48);
    let block = word(table);
    for (name, changes, expected) in [
        ("magic.qcow2", &[(0, b"QFI\xfa".as_slice())][..], "is not a qcow2 image"),
        ("version.qcow2", &[(7, &[9])], "qcow2 v9 is not supported"),
        ("cluster.qcow2", &[(20, &[0, 0, 0, 63])], "luster size"),
        ("l1.qcow2", &[(36, &[0xff; 4])], "L1 table"),
        ("crypt.qcow2", &[(35, &[1])], "is encrypted"),
        ("unknown.qcow2", &[(72, &[0x80])], "incompatible feature"),
        ("data.qcow2", &[(79, &[4])], "keeps its data in another file"),
        ("size.qcow2", &[(24, &[0; 8])], "0 bytes are no whole number"),
        ("counts.qcow2", &[(48, &[0, 0, 0, 0x71])], "has no reference counts"),
        ("table.qcow2", &[(48, &[0; 8])], "reserved bits"),
        ("clusters.qcow2", &[(56, &[0; 4])], "has no reference counts"),
        ("block.qcow2", &[(table, &[0; 8])], "has no reference counts"),
        ("header.qcow2", &[(block, &[0, 0])], "has no reference counts"),
    ] {
        let text = with(name, changes);
        assert!(text.starts_with(&path(name)) && text.contains(expected), "{text}");
    }
    let short = refusal(&spec(&image(dir, "short.qcow2", &good[..20])));
    assert!(short.ends_with("too short for qcow2"), "{short}");
}

#[test]
fn backing_files_that_are_missing_or_go_round_in_a_circle_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = image(dir, "base.raw", &[0; 1 << 20]);
    let top = qcow2(dir, "top.qcow2", Some(&base));
    open(&spec(&top)).unwrap();
    fs::remove_file(&base).unwrap();
    let text = refusal(&spec(&top));
    let expected = format!(
        "backing file of {}: {}: No such file or directory (os error 2)",
        top.display(),
        base.display()
    );
    assert_eq!(text, expected);
    // A qcow2 image of its own name: said to be raw, and said to be qcow2.
    fs::copy(&top, &base).unwrap();
    let mut bytes = fs::read(&base).unwrap();
    let at =
        bytes.windows(7).position(|window| window == b"\0\0\0\x03raw").expect("the backing file's format");
    bytes[at + 3] = 5;
    bytes[at + 4..at + 9].copy_from_slice(b"qcow2");
    fs::write(&base, &bytes).unwrap();
    fs::write(&top, &bytes).unwrap();
    let text = refusal(&spec(&top));
    assert!(text.ends_with(": stands on itself: its chain of overlay and backing files is a loop"), "{text}");
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
}

const SECTORS: u64 = 512;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..SECTORS, 1_u64..=64);
    let step = prop_oneof![
        4 => (place(), 1_u8..).prop_map(|((at, len), fill)| Step::Write(at, len, fill)),
        1 => (place(), any::<bool>()).prop_map(|((at, len), unmap)| Step::Zero(at, len, unmap)),
        1 => place().prop_map(|(at, len)| Step::Discard(at, len)),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every kind of disk does what an array does.
    #[test]
    fn a_disk_is_an_array(steps in steps(), cut in 1_usize..511) {
        let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
        let len = (SECTORS * SECTOR) as usize;
        let start: Vec<u8> = (0..len).map(|at| (at / 512) as u8).collect();
        let raw = image(dir.path(), "raw", &start);
        let base = image(dir.path(), "base", &start);
        let overlay = DiskConfig { overlay: Some(Overlay::Tmp), ..spec(&base) };
        let direct = image(dir.path(), "direct", &start);
        let uring = |direct, path: &Path| DiskConfig { io: IoEngine::Uring, direct, ..spec(path) };
        let (ring, both) = (image(dir.path(), "ring", &start), image(dir.path(), "both", &start));
        let direct = DiskConfig { direct: true, io: IoEngine::Sync, ..spec(&direct) };
        let sync = DiskConfig { io: IoEngine::Sync, ..spec(&raw) };
        for spec in [sync, overlay, direct, uring(false, &ring), uring(true, &both)] {
            let mut disk = open(&spec).unwrap();
            disk.prepare(&ram.0.map());
            let unit = u64::from(disk.geometry().logical_block) / SECTOR;
            let mut model = start.clone();
            for step in &steps {
                let range = |at: u64, len: u64| {
                    let at = at / unit * unit;
                    let end = (at + len.next_multiple_of(unit)).min(SECTORS);
                    (at * SECTOR) as usize..(end * SECTOR) as usize
                };
                match *step {
                    Step::Write(at, len, fill) => {
                        let range = range(at, len);
                        model[range.clone()].fill(fill);
                        let data = vec![fill; range.len()];
                        // One buffer, or two of which no address or length is a multiple of anything.
                        let two = [cut, range.len() - cut];
                        let lens = if cut % 2 == 0 { &[range.len()] } else { two.as_slice() };
                        ram.write(disk.as_mut(), range.start as u64, &data, lens).unwrap();
                    }
                    Step::Zero(at, len, unmap) => {
                        let range = range(at, len);
                        model[range.clone()].fill(0);
                        let (offset, len) = (range.start as u64, range.len() as u64);
                        run(disk.as_mut(), &Operation::WriteZeroes { offset, len, unmap, durable: unmap }).unwrap();
                    }
                    Step::Discard(at, len) => {
                        let range = range(at, len);
                        let (offset, len) = (range.start as u64, range.len() as u64);
                        run(disk.as_mut(), &Operation::Discard { offset, len }).unwrap();
                        // What is there afterwards is open: whatever is read now has to stay.
                        let now = ram.read(disk.as_mut(), offset, &[len as usize]).unwrap();
                        model[range].copy_from_slice(&now);
                    }
                    Step::Flush => run(disk.as_mut(), &Operation::Flush).unwrap(),
                }
                for lens in [&[len] as &[usize], &[len - cut, cut]] {
                    let all = ram.read(disk.as_mut(), 0, lens).unwrap();
                    prop_assert!(all == model, "after {step:?} on {spec:?}");
                }
            }
        }
        prop_assert!(fs::read(base).unwrap() == start);
    }
}
