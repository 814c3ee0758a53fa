//! Guest RAM as a user writes it: `SIZE[,huge=KIND][,prealloc][,shared]`, or a table with those keys.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::value::{switch, text_or_number};
use super::{HugePages, ValueError};

/// A size of guest RAM: a multiple of 4 KiB from 2 MiB to 4 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(u64);

const MIB: u64 = 1 << 20;
/// Suffixes of sizes, and the power of two of each. All are binary, as memory is.
const UNITS: [(&str, u32); 10] = [
    ("B", 0),
    ("", 20),
    ("K", 10),
    ("KIB", 10),
    ("M", 20),
    ("MIB", 20),
    ("G", 30),
    ("GIB", 30),
    ("T", 40),
    ("TIB", 40),
];

impl MemorySize {
    /// 1 MiB of high memory and all that is below.
    pub const MIN: Self = Self(2 * MIB);
    /// KVM takes less than 8 TiB in one memory slot, and four-level page tables map it all.
    pub const MAX: Self = Self(4 << 40);
    /// Enough for a distribution's kernel and a small initramfs.
    pub const DEFAULT: Self = Self(256 * MIB);

    /// The page that all memory is made of.
    pub(super) const PAGE: Self = Self(4 << 10);
    /// A huge page of 2 MiB.
    pub(super) const PAGE_2M: Self = Self(2 * MIB);
    /// A huge page of 1 GiB.
    pub(super) const PAGE_1G: Self = Self(1 << 30);

    /// A size of this many bytes.
    pub fn new(bytes: u64) -> Result<Self, ValueError> {
        let size = Self(bytes);
        if size < Self::MIN {
            return Err(ValueError::MemoryTooSmall(bytes));
        }
        if size > Self::MAX {
            return Err(ValueError::MemoryTooLarge(bytes.to_string()));
        }
        if !bytes.is_multiple_of(Self::PAGE.0) {
            return Err(ValueError::MemoryUnaligned(bytes));
        }
        Ok(size)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = ValueError;

    /// Takes `512M`, `2G`, `1GiB`, `4096K`, `1048576B`; a number without unit is in MiB.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|&(_, shift)| shift);
        let Some(shift) = shift.filter(|_| digits > 0) else {
            return Err(ValueError::Size(text.to_owned()));
        };
        let too_large = || ValueError::MemoryTooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| too_large())?;
        Self::new(number.checked_mul(1 << shift).ok_or_else(too_large)?)
    }
}

impl fmt::Display for MemorySize {
    /// In the largest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, 'T'), (30, 'G'), (20, 'M')];
        let (shift, unit) =
            units.into_iter().find(|&(shift, _)| self.0.trailing_zeros() >= shift).unwrap_or((10, 'K'));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl Serialize for MemorySize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "a size such as \"512M\"")
    }
}

/// Guest RAM, as far as it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMemory {
    /// Size, such as "512M" or "2GiB"; a number without unit is in MiB.
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub size: Option<MemorySize>,
    /// Huge pages behind it.
    pub huge: Option<HugePages>,
    /// Touch all of it before the guest starts.
    pub prealloc: Option<bool>,
    /// Shared with other processes instead of private.
    pub shared: Option<bool>,
}

impl RawMemory {
    /// What is given here, and from `other` what is not.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        let Self { size, huge, prealloc, shared } = self;
        Self {
            size: size.or(other.size),
            huge: huge.or(other.huge),
            prealloc: prealloc.or(other.prealloc),
            shared: shared.or(other.shared),
        }
    }
}

impl FromStr for RawMemory {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut parts = text.split(',');
        let mut memory = Self { size: Some(parts.next().unwrap_or_default().parse()?), ..Self::default() };
        for part in parts {
            let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
            let again = match (key, value) {
                ("huge", Some(kind)) => {
                    let kind = HugePages::from_str(kind, false);
                    memory
                        .huge
                        .replace(kind.map_err(|_| ValueError::MemoryOption(part.to_owned()))?)
                        .is_some()
                }
                ("prealloc", value) => memory.prealloc.replace(switch(value.unwrap_or("on"))?).is_some(),
                ("shared", value) => memory.shared.replace(switch(value.unwrap_or("on"))?).is_some(),
                _ => return Err(ValueError::MemoryOption(part.to_owned())),
            };
            if again {
                return Err(ValueError::MemoryOptionTwice(part.to_owned()));
            }
        }
        Ok(memory)
    }
}

/// Reads memory in a file: as the flag takes it, or as a table.
pub(super) fn text_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RawMemory, D::Error> {
    struct TextOrTable;

    impl<'de> Visitor<'de> for TextOrTable {
        type Value = RawMemory;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as \"512M\", or a table of size, huge, prealloc and shared")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<RawMemory, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_u64<E: de::Error>(self, mib: u64) -> Result<RawMemory, E> {
            self.visit_str(&mib.to_string())
        }

        fn visit_i64<E: de::Error>(self, mib: i64) -> Result<RawMemory, E> {
            self.visit_str(&mib.to_string())
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawMemory, A::Error> {
            RawMemory::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(TextOrTable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512", 512 << 20),
            ("2G", 2 << 30),
            ("1GiB", 1 << 30),
            ("1gib", 1 << 30),
            ("4096K", 4 << 20),
            ("2097152B", 2 << 20),
            ("4T", 4 << 40),
            ("0002M", 2 << 20),
        ] {
            assert_eq!(text.parse(), Ok(MemorySize(bytes)), "{text}");
        }
    }

    #[test]
    fn bad_sizes() {
        use ValueError::{MemoryTooLarge, MemoryTooSmall, MemoryUnaligned, Size};
        for text in ["", "M", "-1", "+1", "1.5G", "1GB", "1 G", "512M ", "0x200", "１M"] {
            assert_eq!(text.parse::<MemorySize>(), Err(Size(text.into())));
        }
        assert_eq!("0".parse::<MemorySize>(), Err(MemoryTooSmall(0)));
        assert_eq!("2047K".parse::<MemorySize>(), Err(MemoryTooSmall(2047 << 10)));
        assert_eq!("2049K".parse::<MemorySize>(), Err(MemoryUnaligned(2049 << 10)));
        assert_eq!("2097153B".parse::<MemorySize>(), Err(MemoryUnaligned((2 << 20) + 1)));
        assert_eq!("5T".parse::<MemorySize>(), Err(MemoryTooLarge((5_u64 << 40).to_string())));
        for text in ["18446744073709551616", "16777216T", "18446744073709551615K"] {
            assert_eq!(text.parse::<MemorySize>(), Err(MemoryTooLarge(text.into())), "overflow");
        }
    }

    #[test]
    fn options() {
        let full = RawMemory {
            size: Some(MemorySize(1 << 30)),
            huge: Some(HugePages::Size2M),
            prealloc: Some(true),
            shared: Some(false),
        };
        assert_eq!("1G,huge=2M,prealloc,shared=off".parse(), Ok(full));
        for bad in
            ["", "huge=2M", "1G,", "1G,huge", "1G,huge=4M", "1G,prealloc=yes", "1G,,shared", "1G,Shared"]
        {
            assert!(bad.parse::<RawMemory>().is_err(), "{bad}");
        }
        let twice = "1G,shared,shared=off".parse::<RawMemory>();
        assert_eq!(twice, Err(ValueError::MemoryOptionTwice("shared=off".into())));
    }

    proptest! {
        #[test]
        fn a_size_reads_back(pages in 512_u64..=(4 << 40) / 4096) {
            let size = MemorySize::new(pages * 4096).unwrap();
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = text.parse::<RawMemory>();
        }

        #[test]
        fn what_is_given_first_wins(a in 2_u64..1000, b in 2_u64..1000) {
            let (a, b): (RawMemory, RawMemory) = (a.to_string().parse().unwrap(), format!("{b},shared").parse().unwrap());
            let both = a.or(b);
            prop_assert_eq!((both.size, both.shared), (a.size, Some(true)));
        }
    }
}
