//! Disks as a user writes them.

use std::num::NonZeroU8;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pairs::Device;
use super::value::{queues, text, text_or_number};
use super::{FileRef, RateLimit, TokenBucket, TransportKind, ValueError};

/// A disk, which the guest sees as a virtio block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskConfig {
    /// The image, or with an overlay its base: a file, a block device or fd:N.
    #[schemars(with = "String")]
    pub path: FileRef,
    /// Whether the guest may only read.
    #[serde(default)]
    pub readonly: bool,
    /// What the image is; by default qcow2 if its name ends so, else raw.
    pub format: Option<DiskFormat>,
    /// Where writes go instead of the image, which then can be the base of any number of VMs: "tmp" for a file in
    /// $TMPDIR that is gone when the VM is, or a qcow2 file, which is made if it is not there.
    #[schemars(with = "Option<String>")]
    pub overlay: Option<Overlay>,
    /// What happens before the guest is told that a write is done.
    #[serde(default)]
    pub cache: CacheMode,
    /// Leave the host's page cache out (O_DIRECT).
    #[serde(default)]
    pub direct: bool,
    /// How a raw image is read and written.
    #[serde(default)]
    pub io: IoEngine,
    /// Number of queues; one for each vCPU lets them work side by side. By default 1.
    #[serde(default, deserialize_with = "queues")]
    #[schemars(with = "Option<u8>", range(min = 1))]
    pub queues: Option<NonZeroU8>,
    /// What the guest finds as the disk's serial number, up to 20 bytes of ASCII.
    #[schemars(with = "Option<String>")]
    pub serial: Option<Serial>,
    /// Bytes that the guest had best write at once: a power of two from 512 to 2M. By default what the host says.
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub physical_block_size: Option<BlockSize>,
    /// The most bytes per time, such as "10M" (a second), "1M/100ms" or "10M+100M" (and so many once at the start).
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub bandwidth: Option<TokenBucket>,
    /// The most requests per time, written alike.
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub ops: Option<TokenBucket>,
    /// How the guest reaches it; as `transport` says for all if it is not given.
    pub transport: Option<TransportKind>,
}

impl Device for DiskConfig {}

impl DiskConfig {
    /// A disk on this image, with nothing said about it.
    #[must_use]
    pub fn new(path: FileRef) -> Self {
        Self {
            path,
            readonly: false,
            format: None,
            overlay: None,
            cache: CacheMode::default(),
            direct: false,
            io: IoEngine::default(),
            queues: None,
            serial: None,
            physical_block_size: None,
            bandwidth: None,
            ops: None,
            transport: None,
        }
    }

    /// How much the guest may do.
    #[must_use]
    pub fn rate(&self) -> RateLimit {
        RateLimit { bandwidth: self.bandwidth, ops: self.ops }
    }
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk byte for byte.
    Raw,
    /// QEMU's format.
    Qcow2,
}

impl DiskFormat {
    /// Its name in the header of a qcow2 image.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What happens before the guest is told that a write is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// The host has it; what has to survive a power cut the guest flushes, as on any disk.
    #[default]
    Writeback,
    /// It would survive a power cut; the guest need not flush.
    Writethrough,
    /// The host has it, and the guest cannot flush: for data that may be lost.
    Unsafe,
}

/// How a raw image is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IoEngine {
    /// By plain calls where the image is in memory (tmpfs), else by io_uring where the host has it.
    #[default]
    Auto,
    /// By plain calls, one after the other.
    Sync,
    /// By io_uring.
    Uring,
}

/// Where writes go instead of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// To a file without a name, which is gone when the VM is.
    Tmp,
    /// To this file, which is made if it is not there.
    File(FileRef),
}

impl FromStr for Overlay {
    type Err = ValueError;

    /// A file of the name `tmp` is written `./tmp`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "tmp" { Ok(Self::Tmp) } else { text.parse().map(Self::File) }
    }
}

impl Serialize for Overlay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tmp => serializer.serialize_str("tmp"),
            Self::File(file) => file.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Overlay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "\"tmp\", a path or fd:N")
    }
}

/// The serial number of a disk: up to 20 bytes of printable ASCII (Virtio 1.3, 5.2.6: the device ID string).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Serial(String);

impl Serial {
    /// The most bytes.
    pub const MAX: usize = 20;

    /// Its bytes, filled up with NULs.
    #[must_use]
    pub fn bytes(&self) -> [u8; Self::MAX] {
        let mut bytes = [0; Self::MAX];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        bytes
    }
}

impl FromStr for Serial {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.len() > Self::MAX || !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(ValueError::Serial(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "a serial number")
    }
}

/// Bytes of a physical block: a power of two from 512 to 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BlockSize(u32);

impl BlockSize {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl FromStr for BlockSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, shift) = match text.split_at_checked(text.len().saturating_sub(1)) {
            Some((number, "K")) => (number, 10),
            Some((number, "M")) => (number, 20),
            _ => (text, 0),
        };
        let number = number.parse::<u32>().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()));
        match number.and_then(|number| number.checked_mul(1 << shift)) {
            Some(bytes) if bytes.is_power_of_two() && (512..=2 << 20).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(ValueError::BlockSize(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for BlockSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "a size of blocks such as 4096 or \"4K\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pairs;

    #[test]
    fn what_can_be_written() {
        let all = "path=a,readonly,format=qcow2,overlay=tmp,cache=writethrough,direct,io=sync,queues=4,serial=x y,\
                   physical-block-size=4K,bandwidth=10M,ops=100,transport=pci";
        let expected = DiskConfig {
            path: FileRef::Path("a".into()),
            readonly: true,
            format: Some(DiskFormat::Qcow2),
            overlay: Some(Overlay::Tmp),
            cache: CacheMode::Writethrough,
            direct: true,
            io: IoEngine::Sync,
            queues: NonZeroU8::new(4),
            serial: Some(Serial("x y".to_owned())),
            physical_block_size: Some(BlockSize(4096)),
            bandwidth: Some("10M".parse().unwrap()),
            ops: Some("100".parse().unwrap()),
            transport: Some(TransportKind::Pci),
        };
        assert_eq!(pairs::parse(all), Ok(expected));
        assert_eq!(pairs::parse("path=fd:3"), Ok(DiskConfig::new(FileRef::Fd(3))));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("", "`path` is missing: add path=…"),
            ("path=a,queues=0", "queues: `0` is no number of queues: give 1 to 255"),
            (
                "path=a,serial=123456789012345678901",
                "serial: `123456789012345678901` is no serial number: write at most 20 ASCII characters",
            ),
            (
                "path=a,serial=\u{e4}",
                "serial: `\u{e4}` is no serial number: write at most 20 ASCII characters",
            ),
            (
                "path=a,physical-block-size=1000",
                "physical-block-size: `1000` is no size of blocks: give a power of two from 512 to 2M, such as 4096 or 4K",
            ),
            ("path=a,overlay=", "overlay: the path is empty: name a file"),
        ] {
            assert_eq!(pairs::parse::<DiskConfig>(text).unwrap_err().to_string(), expected);
        }
        for text in ["256", "4M", "K", "+512", "4096M", "0"] {
            assert!(text.parse::<BlockSize>().is_err(), "{text}");
        }
    }
}
