//! Whether somebody has made an image shorter. What is missing of one would read as zeroes: a qcow2 image may end before
//! its last cluster does.

use std::fs::File;
use std::io::{self, ErrorKind};

use rustix::fs::fstat;

/// The files of a disk, each with its bytes when it was looked at last.
#[derive(Debug, Default)]
pub struct Lengths(Vec<(File, i64)>);

impl Lengths {
    /// Adds a file.
    pub fn add(&mut self, file: &File) -> io::Result<()> {
        self.0.push((file.try_clone()?, fstat(file)?.st_size));
        Ok(())
    }

    /// Fails if one is shorter than it was. It then does so for good, since what of it was lost is not known.
    pub fn check(&mut self) -> io::Result<()> {
        for (file, bytes) in &mut self.0 {
            let now = fstat(&*file)?.st_size;
            if now < *bytes {
                *bytes = i64::MAX;
                return Err(ErrorKind::UnexpectedEof.into());
            }
            *bytes = now;
        }
        Ok(())
    }
}
