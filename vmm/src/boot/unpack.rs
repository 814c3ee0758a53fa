//! Unpacks the payload of a `bzImage` on the host. The size of the result is known beforehand and is a hard
//! limit, so that a decompression bomb ends where its own header said it would.

use std::io::{self, Read};

/// Memory that a decoder may take for its window or dictionary: what the kernel's build uses at most (zstd -22:
/// 128 MiB, xz: 128 MiB), and a little.
const MAX_WINDOW: u64 = 136 << 20;
/// Magic of the legacy LZ4 frame, little-endian.
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Largest block of a legacy LZ4 frame, unpacked.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// Why a payload could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the known magic numbers.
    #[error(
        "its payload starts with {0:02x?}, which is no compression of a Linux kernel; the file is damaged"
    )]
    Unknown(Vec<u8>),
    /// The decoder found fault.
    #[error("its {format} payload is damaged ({reason}); copy it again")]
    Damaged {
        /// The compression.
        format: Format,
        /// What the decoder said, one line.
        reason: String,
    },
    /// It unpacked to more or fewer bytes than its trailer says.
    #[error(
        "its {format} payload does not unpack to the {expected} bytes that its trailer says; copy it again"
    )]
    Size {
        /// The compression.
        format: Format,
        /// What the trailer says.
        expected: usize,
    },
}

/// Compressions of a kernel (Linux, `arch/x86/boot/compressed/Makefile`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CONFIG_KERNEL_GZIP.
    Gzip,
    /// CONFIG_KERNEL_XZ.
    Xz,
    /// CONFIG_KERNEL_LZ4, the legacy frame.
    Lz4,
    /// CONFIG_KERNEL_ZSTD.
    Zstd,
    /// CONFIG_KERNEL_BZIP2, CONFIG_KERNEL_LZMA and CONFIG_KERNEL_LZO: rare, left to the kernel's own decoder.
    Other(&'static str),
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Other(name) => name,
        })
    }
}

impl Format {
    /// Tells the compression from the first bytes of a payload.
    pub fn of(payload: &[u8]) -> Result<Self, Error> {
        const MAGIC: [(&[u8], Format); 7] = [
            (&[0x1f, 0x8b], Format::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Format::Xz),
            (&LZ4_LEGACY_MAGIC, Format::Lz4),
            (&[0x28, 0xb5, 0x2f, 0xfd], Format::Zstd),
            (b"BZh", Format::Other("bzip2")),
            (&[0x5d, 0x00, 0x00], Format::Other("lzma")),
            (&[0x89, b'L', b'Z', b'O'], Format::Other("lzo")),
        ];
        let found = MAGIC.iter().find(|(magic, _)| payload.starts_with(magic));
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| Error::Unknown(payload.iter().take(4).copied().collect()))
    }
}

/// Unpacks `payload` (without its size trailer) to exactly `len` bytes.
pub fn unpack(payload: &[u8], len: usize) -> Result<Vec<u8>, Error> {
    let format = Format::of(payload)?;
    let mut out = vec![0; len];
    let filled = match format {
        Format::Gzip => fill(flate2::read::GzDecoder::new(payload), &mut out),
        Format::Xz => {
            let limit = (MAX_WINDOW >> 10) as u32;
            fill(lzma_rust2::XzReader::new_mem_limit(payload, false, limit), &mut out)
        }
        Format::Lz4 => lz4(payload, &mut out),
        Format::Zstd => zstd(payload, &mut out),
        Format::Other(_) => Err(io::ErrorKind::Unsupported.into()),
    };
    match filled {
        Ok(true) => Ok(out),
        Ok(false) => Err(Error::Size { format, expected: len }),
        Err(error) => Err(Error::Damaged { format, reason: one_line(&error.to_string()) }),
    }
}

/// Fills `out` from `reader`. Whether that was all of it: the attempt to read on makes the decoder check its
/// checksum.
fn fill(mut reader: impl Read, out: &mut [u8]) -> io::Result<bool> {
    let mut at = 0;
    while at < out.len() {
        match reader.read(&mut out[at..])? {
            0 => return Ok(false),
            n => at += n,
        }
    }
    Ok(reader.read(&mut [0])? == 0)
}

/// Fills `out` from a legacy LZ4 frame: after the magic, blocks that each have their packed length before them
/// (LZ4, `doc/lz4_Frame_format.md`, "Legacy frame").
fn lz4(payload: &[u8], out: &mut [u8]) -> io::Result<bool> {
    let mut rest = payload.strip_prefix(&LZ4_LEGACY_MAGIC).unwrap_or_default();
    let mut at = 0;
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        rest = after;
        // Frames may be joined, each with its own magic.
        if *head == LZ4_LEGACY_MAGIC {
            continue;
        }
        let packed = u32::from_le_bytes(*head) as usize;
        let (block, after) = rest.split_at_checked(packed).ok_or(io::ErrorKind::UnexpectedEof)?;
        let room = out.len().min(at + LZ4_LEGACY_BLOCK);
        at += lz4_flex::block::decompress_into(block, &mut out[at..room]).map_err(io::Error::other)?;
        rest = after;
    }
    Ok(at == out.len() && rest.is_empty())
}

/// Fills `out` from a zstd frame, and checks its checksum where it has one.
fn zstd(payload: &[u8], out: &mut [u8]) -> io::Result<bool> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    let filled = decoder.decode_all(payload, out).map_err(io::Error::other)?;
    let found = decoder.get_checksum_from_data();
    if found.is_some() && found != decoder.get_calculated_checksum() {
        return Err(io::Error::other("its checksum does not match"));
    }
    Ok(filled == out.len())
}

/// A decoder's message, which may have line breaks, on one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 256 calls, as far apart in memory as they are near in code: what xz's x86 filter is for.
    fn plain() -> Vec<u8> {
        let call = |i: u32| {
            let [a, b, c, d] = 0x10000u32.wrapping_sub(5 * i).to_le_bytes();
            [0xe8, a, b, c, d, 0x48, 0x89, i.wrapping_mul(2_654_435_761) as u8]
        };
        (0..256).flat_map(call).collect()
    }

    /// Made by gzip -9, xz --check=crc32 --x86 --lzma2=dict=32MiB, lz4 -l -9 and zstd -19.
    const FIXTURES: [(Format, &[u8]); 4] = [
        (Format::Gzip, include_bytes!("fixtures/plain.gz")),
        (Format::Xz, include_bytes!("fixtures/plain.xz")),
        (Format::Lz4, include_bytes!("fixtures/plain.lz4")),
        (Format::Zstd, include_bytes!("fixtures/plain.zst")),
    ];

    #[test]
    fn unpacks_what_the_usual_tools_pack() {
        for (format, packed) in FIXTURES {
            assert_eq!(Format::of(packed).unwrap(), format);
            assert_eq!(unpack(packed, plain().len()).unwrap(), plain(), "{format}");
        }
    }

    #[test]
    fn holds_to_the_size_that_was_promised() {
        for (format, packed) in FIXTURES {
            for len in [0, 1, plain().len() - 1, plain().len() + 1, 1 << 20] {
                assert!(unpack(packed, len).is_err(), "{format} to {len}");
            }
        }
    }

    #[test]
    fn finds_damage() {
        for (format, packed) in FIXTURES {
            for len in 0..packed.len() {
                assert!(unpack(&packed[..len], plain().len()).is_err(), "{format} cut to {len}");
            }
            // A legacy LZ4 frame has no checksum.
            if format != Format::Lz4 {
                let mut bent = packed.to_vec();
                bent[packed.len() / 2] ^= 0x10;
                assert!(unpack(&bent, plain().len()).is_err(), "{format} bent");
            }
        }
    }

    #[test]
    fn joined_lz4_frames_are_one() {
        let packed = FIXTURES[2].1;
        let twice = [packed, packed].concat();
        assert_eq!(unpack(&twice, 2 * plain().len()).unwrap(), [plain(), plain()].concat());
    }

    #[test]
    fn names_what_it_leaves_to_the_kernel() {
        assert_eq!(Format::of(b"BZh91AY").unwrap(), Format::Other("bzip2"));
        assert!(matches!(Format::of(b"\0\0\0\0\0"), Err(Error::Unknown(_))));
        assert!(matches!(Format::of(b""), Err(Error::Unknown(_))));
    }
}
