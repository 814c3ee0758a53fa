//! qcow2 images of which somebody has cut off the end: nothing is made up for what is missing.

use super::*;

/// Reads and writes what lies in a file of which the last 64 KiB are cut off while the disk is open: right after the guest
/// made it longer, or when it has been read since.
fn fails_once_cut(cut: impl Fn(&Path) -> PathBuf, config: impl Fn(&Path) -> DiskConfig) {
    for is_read in [false, true] {
        fails(is_read, &cut, &config);
    }
}

fn fails(is_read: bool, cut: impl Fn(&Path) -> PathBuf, config: impl Fn(&Path) -> DiskConfig) {
    let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
    let mut disk = open(&config(dir.path())).unwrap();
    ram.write(disk.as_mut(), 0, &[1; 1 << 17], &[1 << 17]).unwrap();
    if is_read {
        assert_eq!(ram.read(disk.as_mut(), 0, &[1 << 17]).unwrap(), [1; 1 << 17]);
    }

    let file = fs::File::options().write(true).open(cut(dir.path())).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes - (1 << 16)).unwrap();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    let fails = |disk: &mut dyn Backend| {
        assert_eq!(kind(ram.read(disk, 1 << 16, &[4096]).map(drop)), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(ram.write(disk, 1 << 18, &[2; 512], &[512])), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(run(disk, &Operation::Flush)), io::ErrorKind::UnexpectedEof);
    };
    fails(disk.as_mut());
    assert_eq!(file.metadata().unwrap().len(), bytes - (1 << 16), "nothing is written any more");
    // That it has its length again does not bring back what was in it.
    file.set_len(bytes).unwrap();
    fails(disk.as_mut());
}

#[test]
fn an_image() {
    let top = |dir: &Path| dir.join("top.qcow2");
    fails_once_cut(top, |dir| spec(&qcow2(dir, "top.qcow2", None)));
}

#[test]
fn an_overlay() {
    let overlay = |dir: &Path| dir.join("overlay");
    fails_once_cut(overlay, |dir| {
        let overlay = Some(Overlay::File(FileRef::Path(overlay(dir))));
        DiskConfig { overlay, ..spec(&image(dir, "base", &[7; 1 << 20])) }
    });
}

#[test]
fn a_base() {
    fails_once_cut(
        |dir| dir.join("base"),
        |dir| spec(&qcow2(dir, "top.qcow2", Some(&image(dir, "base", &[7; 1 << 20])))),
    );
}
