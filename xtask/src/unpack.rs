//! Compressed files, by their content.

use std::io::{self, BufReader, Chain, Cursor, Read};

use anyhow::{Context, Result};

/// What is inside of `from`: decompressed if it starts as a known format does, else as it is.
pub fn reader<'a, R: Read + 'a>(mut from: R) -> Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    from.by_ref().take(6).read_to_end(&mut start)?;
    let kind = start.clone();
    let whole: BufReader<Chain<Cursor<Vec<u8>>, R>> = BufReader::new(Cursor::new(start).chain(from));
    Ok(match kind.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(whole, true)),
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(whole);
            Box::new(decoder.map_err(io::Error::other).context("zstd")?)
        }
        _ => Box::new(whole),
    })
}

/// All that is inside of `bytes`.
pub fn all(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader(bytes)?.read_to_end(&mut out)?;
    Ok(out)
}
