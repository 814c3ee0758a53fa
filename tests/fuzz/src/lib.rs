//! What the fuzz targets share.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

/// An anonymous file with these contents.
#[must_use]
pub fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory file"));
    file.write_all(bytes).expect("room in memory");
    Arc::new(file)
}

/// A bug on purpose, which shows that a target reaches what is to be reached. It is there only with the
/// feature `planted`, and `reached` is a condition that no seed meets.
pub fn plant(reached: bool) {
    assert!(!reached, "planted bug");
}
