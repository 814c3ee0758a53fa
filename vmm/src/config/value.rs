//! Single values as a user writes them, in a flag or in a file. Each type holds only what is valid.

use std::fmt::{self, Display};
use std::num::{IntErrorKind, NonZeroU8};
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::{Serialize, Serializer};

use super::{ConsoleSpec, Kaslr, ValueError};

/// Reads a value from text, as the flag takes it.
pub(super) fn text<'de, T, D>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err = ValueError>,
    D: Deserializer<'de>,
{
    scalar(deserializer, expected, false)
}

/// Reads a value from text, as the flag takes it, or from a whole number, which counts as its digits.
pub(super) fn text_or_number<'de, T, D>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err = ValueError>,
    D: Deserializer<'de>,
{
    scalar(deserializer, expected, true)
}

fn scalar<'de, T, D>(deserializer: D, expected: &'static str, numbers: bool) -> Result<T, D::Error>
where
    T: FromStr<Err = ValueError>,
    D: Deserializer<'de>,
{
    let mut value = None;
    let take = &mut |text: &str| text.parse().map(|parsed| value = Some(parsed));
    deserializer.deserialize_any(Scalar { expected, numbers, take })?;
    value.ok_or_else(|| de::Error::custom(expected))
}

/// One visitor for values of all types: each would be code of its own for each kind of file.
struct Scalar<'a> {
    expected: &'static str,
    numbers: bool,
    take: &'a mut dyn FnMut(&str) -> Result<(), ValueError>,
}

impl Scalar<'_> {
    fn number<E: de::Error>(self, number: impl Display, unexpected: Unexpected<'_>) -> Result<(), E> {
        if self.numbers {
            (self.take)(&number.to_string()).map_err(E::custom)
        } else {
            Err(E::invalid_type(unexpected, &self))
        }
    }
}

impl Visitor<'_> for Scalar<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        (self.take)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.number(number, Unexpected::Unsigned(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.number(number, Unexpected::Signed(number))
    }
}

/// A number of vCPUs that a VM can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cpus(u8);

impl Cpus {
    /// One, the default.
    pub const ONE: Self = Self(1);
    /// The most: an 8-bit APIC identifier has 256 values, of which 255 means "all" and one is the IOAPIC's.
    pub const MAX: Self = Self(254);

    /// As a number, 1 to 254.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for Cpus {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse() {
            Ok(n) if (Self::ONE.0..=Self::MAX.0).contains(&n) => Ok(Self(n)),
            _ => Err(ValueError::Cpus(text.to_owned())),
        }
    }
}

impl TryFrom<u8> for Cpus {
    type Error = ValueError;

    fn try_from(n: u8) -> Result<Self, ValueError> {
        n.to_string().parse()
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "a number of CPUs from 1 to 254")
    }
}

/// A kernel command line: no NUL, and short enough for its place in guest memory. What the kernel itself
/// accepts is often less, and is checked where the kernel is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cmdline(String);

impl Cmdline {
    /// The most bytes, without the NUL that ends it in guest memory.
    pub const MAX: usize = abi::layout::CMDLINE.len as usize - 1;

    /// The text.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl FromStr for Cmdline {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(at) = text.find('\0') {
            return Err(ValueError::NulInCmdline { at });
        }
        if text.len() > Self::MAX {
            return Err(ValueError::CmdlineTooLong { len: text.len(), max: Self::MAX });
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Cmdline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a kernel command line, as text")
    }
}

/// A moment of `CLOCK_MONOTONIC` in nanoseconds; at most 2^63 - 1, as in the kernel's own `ktime_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Nanoseconds(u64);

impl Nanoseconds {
    /// As a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Nanoseconds {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number: Option<u64> = text.parse().ok();
        number.and_then(|n| n.try_into().ok()).ok_or_else(|| ValueError::Nanoseconds(text.to_owned()))
    }
}

impl TryFrom<u64> for Nanoseconds {
    type Error = ValueError;

    fn try_from(n: u64) -> Result<Self, ValueError> {
        i64::try_from(n).map(|_| Self(n)).map_err(|_| ValueError::Nanoseconds(n.to_string()))
    }
}

impl<'de> Deserialize<'de> for Nanoseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "nanoseconds of CLOCK_MONOTONIC")
    }
}

/// A number of queues.
struct Queues(NonZeroU8);

impl FromStr for Queues {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| ValueError::Queues(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Queues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "a number of queues from 1 to 255")
    }
}

/// Reads a number of queues.
pub(super) fn queues<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU8>, D::Error> {
    Option::deserialize(deserializer).map(|queues| queues.map(|Queues(number)| number))
}

impl FromStr for Kaslr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let seed = match (text, text.strip_prefix("0x")) {
            ("random", _) => return Ok(Self::Random),
            ("off", _) => return Ok(Self::Off),
            (_, Some(hex)) if !hex.starts_with('+') => u64::from_str_radix(hex, 16),
            _ => text.parse(),
        };
        seed.map(Self::Seed).map_err(|e| match e.kind() {
            IntErrorKind::PosOverflow => ValueError::SeedTooLarge(text.to_owned()),
            _ => ValueError::Kaslr(text.to_owned()),
        })
    }
}

impl Display for Kaslr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Off => f.write_str("off"),
            Self::Seed(seed) => write!(f, "{seed}"),
        }
    }
}

impl Serialize for Kaslr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Kaslr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "\"random\", \"off\" or a seed")
    }
}

impl FromStr for ConsoleSpec {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match (text, text.strip_prefix("file=")) {
            ("stdio", _) => Ok(Self::Stdio),
            ("off", _) => Ok(Self::Off),
            (_, Some(file)) => file.parse().map(Self::File),
            _ => Err(ValueError::Console(text.to_owned())),
        }
    }
}

impl Serialize for ConsoleSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stdio => serializer.serialize_str("stdio"),
            Self::Off => serializer.serialize_str("off"),
            Self::File(file) => match file.to_os_string().to_str() {
                Some(text) => serializer.collect_str(&format_args!("file={text}")),
                None => file.serialize(serializer),
            },
        }
    }
}

impl<'de> Deserialize<'de> for ConsoleSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "\"stdio\", \"file=PATH\" or \"off\"")
    }
}

/// Reads `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, ValueError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ValueError::Switch(text.to_owned())),
    }
}
