//! Transfers of nothing, and of buffers some of which are empty.

use super::*;

#[test]
fn a_transfer_of_nothing_is_done() {
    let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
    let path = image(dir.path(), "raw", &[7; 4096]);
    for io in [IoEngine::Sync, IoEngine::Uring] {
        for direct in [false, true] {
            let mut disk = open(&DiskConfig { io, direct, ..spec(&path) }).unwrap();
            for lens in [&[][..], &[0], &[0, 0]] {
                assert!(ram.read(disk.as_mut(), 0, lens).unwrap().is_empty());
                ram.write(disk.as_mut(), 0, &[], lens).unwrap();
            }
            assert_eq!(ram.read(disk.as_mut(), 0, &[0, 512, 0, 512, 0]).unwrap(), [7; 1024]);
        }
    }
}
