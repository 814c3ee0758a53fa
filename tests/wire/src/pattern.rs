//! Bytes that tell when some of them are lost, doubled or changed.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};

/// A prime, so that no buffer's size goes into it.
const PERIOD: usize = 65_521;

/// A stream without end, and a place in it.
pub struct Pattern {
    bytes: Vec<u8>,
    at: usize,
}

impl Default for Pattern {
    fn default() -> Self {
        // xorshift: no run of bytes is found twice.
        let mut random = 0x9e37_79b9_u32;
        let mut byte = || {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            random as u8
        };
        let once: Vec<u8> = (0..PERIOD).map(|_| byte()).collect();
        Self { bytes: [once.as_slice(), &once].concat(), at: 0 }
    }
}

impl Pattern {
    fn next(&mut self, len: usize) -> &[u8] {
        let start = self.at;
        self.at = (self.at + len) % PERIOD;
        &self.bytes[start..start + len]
    }

    /// Writes so many bytes of it.
    pub fn send(&mut self, to: &mut dyn Write, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let len = left.min(PERIOD as u64) as usize;
            to.write_all(self.next(len)).with_context(|| format!("{left} of {bytes} bytes are left"))?;
            left -= len as u64;
        }
        Ok(())
    }

    /// Reads so many bytes, which have to be those of the pattern.
    pub fn check(&mut self, from: &mut dyn Read, bytes: u64) -> Result<()> {
        let mut buffer = vec![0; PERIOD];
        let mut left = bytes;
        while left > 0 {
            let most = left.min(PERIOD as u64) as usize;
            let len = from
                .read(&mut buffer[..most])
                .with_context(|| format!("{left} of {bytes} bytes are left"))?;
            ensure!(len > 0, "the stream ends with {left} of {bytes} bytes to come");
            ensure!(
                buffer[..len] == *self.next(len),
                "what came after {} bytes is not what was sent",
                bytes - left
            );
            left -= len as u64;
        }
        Ok(())
    }
}
