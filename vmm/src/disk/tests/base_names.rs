//! Overlays that are kept name their bases, however those are given.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use super::*;

/// A disk on top of what is open here, with its changes in a file.
fn over(base: &File, overlay: &Path) -> DiskConfig {
    let overlay = Some(Overlay::File(FileRef::Path(overlay.into())));
    DiskConfig { overlay, ..DiskConfig::new(FileRef::Fd(base.as_raw_fd())) }
}

#[test]
fn a_descriptor_has_a_path() {
    let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
    let base = File::open(image(dir.path(), "base", &[7; 1 << 20])).unwrap();
    let top = dir.path().join("top.qcow2");
    let mut disk = open(&over(&base, &top)).unwrap();
    ram.write(disk.as_mut(), 512, &[8; 512], &[512]).unwrap();
    run(disk.as_mut(), &Operation::Flush).unwrap();
    drop(disk);
    let mut alone = open(&spec(&top)).unwrap();
    assert_eq!(ram.read(alone.as_mut(), 0, &[1024]).unwrap(), [[7; 512], [8; 512]].concat());
}

#[test]
fn one_without_a_path_has_no_overlay_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "base", &[7; 1 << 20]);
    let base = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let top = dir.path().join("top.qcow2");
    let config = over(&base, &top);
    let expected = format!(
        "{}: has no path that {} could keep as its base's: give one in UTF-8, or overlay=tmp",
        config.path,
        top.display()
    );
    assert_eq!(refusal(&config), expected);
    open(&DiskConfig { overlay: Some(Overlay::Tmp), ..config }).unwrap();

    let odd = dir.path().join(OsStr::from_bytes(b"\xff"));
    fs::write(&odd, [7; 1 << 20]).unwrap();
    let text = refusal(&DiskConfig { path: FileRef::Path(odd), ..over(&base, &top) });
    assert!(text.ends_with("give one in UTF-8, or overlay=tmp"), "{text}");
}
