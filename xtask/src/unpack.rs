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
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(Cursor::new(lz4_legacy(whole)?)),
        _ => Box::new(whole),
    })
}

/// Unpacks LZ4's legacy frame, which Linux uses (lz4, `doc/lz4_Frame_format.md`, "Legacy frame"): after the magic,
/// blocks of up to 8 MiB unpacked, each with its packed length before it.
fn lz4_legacy(mut from: impl Read) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut packed = Vec::new();
    from.read_to_end(&mut packed)?;
    let mut rest = packed.get(4..).unwrap_or_default();
    let mut out = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = u32::from_le_bytes(*len) as usize;
        let (block, after) = after.split_at_checked(len).context("lz4: a block is cut off")?;
        out.extend(lz4_flex::block::decompress(block, BLOCK).context("lz4")?);
        rest = after;
    }
    Ok(out)
}

/// All that is inside of `bytes`.
pub fn all(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader(bytes)?.read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_of_two_blocks() {
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        for part in ["one, ", "two"] {
            let block = lz4_flex::block::compress(part.as_bytes());
            packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend(block);
        }
        assert_eq!(all(&packed).unwrap(), b"one, two");
        packed.pop();
        assert!(all(&packed).is_err());
    }

    #[test]
    fn what_is_not_packed_stays() {
        for bytes in [&b""[..], b"short", b"\x7fELF and more"] {
            assert_eq!(all(bytes).unwrap(), bytes);
        }
    }
}
