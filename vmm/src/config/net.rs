//! Network cards as a user writes them.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer};
use serde::{Deserialize as DeriveDeserialize, Serialize, Serializer};

use super::pairs::Device;
use super::value::{queues, text};
use super::{FileRef, RateLimit, TokenBucket, TransportKind, ValueError};

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, DeriveDeserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetConfig {
    /// The tap that its frames go to: the name of an interface, which is made if it is not there, or fd:N, or fd:N:N…
    /// with one descriptor for each pair of queues.
    #[schemars(with = "Option<String>")]
    pub tap: Option<TapRef>,
    /// The Unix socket of a program that its frames go to, such as passt, which needs no privileges.
    #[schemars(with = "Option<String>")]
    pub passt: Option<FileRef>,
    /// Its hardware address, such as "02:00:00:00:00:01"; a random one if it is not given.
    #[schemars(with = "Option<String>")]
    pub mac: Option<MacAddr>,
    /// The longest packet, in bytes; a tap is set to it. The guest's default is 1500.
    #[schemars(with = "Option<u16>", range(min = 68))]
    pub mtu: Option<Mtu>,
    /// Pairs of queues, for guests with several CPUs; 1 if it is not given.
    #[serde(default, deserialize_with = "queues")]
    #[schemars(with = "Option<u8>", range(min = 1))]
    pub queues: Option<NonZeroU8>,
    /// Limit to bytes that the guest receives, such as "10M", "1M/100ms" or "10M+100M".
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub rx_bandwidth: Option<TokenBucket>,
    /// Limit to frames that the guest receives.
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub rx_ops: Option<TokenBucket>,
    /// Limit to bytes that the guest sends.
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub tx_bandwidth: Option<TokenBucket>,
    /// Limit to frames that the guest sends.
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub tx_ops: Option<TokenBucket>,
    /// How the guest reaches it; as `transport` says for all if it is not given.
    pub transport: Option<TransportKind>,
}

impl NetConfig {
    /// What limits frames to the guest, and frames of the guest.
    #[must_use]
    pub fn rates(&self) -> [RateLimit; 2] {
        [(self.rx_bandwidth, self.rx_ops), (self.tx_bandwidth, self.tx_ops)]
            .map(|(bandwidth, ops)| RateLimit { bandwidth, ops })
    }

    /// Pairs of queues: as many as there are descriptors where those are given.
    #[must_use]
    pub fn pairs(&self) -> u16 {
        match &self.tap {
            Some(TapRef::Fds(fds)) => fds.len() as u16,
            _ => self.queues.map_or(1, |queues| queues.get().into()),
        }
    }
}

impl Device for NetConfig {
    fn check(&self) -> Result<(), &'static str> {
        Err(match (&self.tap, &self.passt) {
            (None, None) => "nothing is at its other end: name a tap or a passt",
            (Some(_), Some(_)) => "a tap and a passt are too much: name one",
            (None, Some(_)) if self.pairs() > 1 => "passt has one pair of queues: leave out queues",
            (Some(TapRef::Fds(fds)), None)
                if self.queues.is_some_and(|queues| usize::from(queues.get()) != fds.len()) =>
            {
                "each pair of queues has its descriptor: give as many as queues, or leave out queues"
            }
            _ => return Ok(()),
        })
    }
}

/// A tap: the name of an interface, or descriptors of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapRef {
    /// Up to 15 bytes that can be the name of an interface.
    Name(String),
    /// Descriptors that the parent left open, one for each pair of queues, at least one.
    Fds(Vec<FileRef>),
}

/// The most descriptors, as `queues` has at most.
const MOST_PAIRS: usize = u8::MAX as usize;

impl FromStr for TapRef {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(numbers) = text.strip_prefix("fd:") {
            let fds: Vec<FileRef> =
                numbers.split(':').map(|number| format!("fd:{number}").parse()).collect::<Result<_, _>>()?;
            if fds.len() > MOST_PAIRS {
                return Err(ValueError::Tap(text.to_owned()));
            }
            return Ok(Self::Fds(fds));
        }
        // As Linux's `dev_valid_name`; a percent sign would make it a pattern.
        let bad = |c: char| c.is_whitespace() || c.is_control() || ['/', ':', '%'].contains(&c);
        if text.is_empty() || text.len() > 15 || [".", ".."].contains(&text) || text.contains(bad) {
            return Err(ValueError::Tap(text.to_owned()));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for TapRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Fds(fds) => {
                f.write_str("fd")?;
                fds.iter().try_for_each(|fd| match fd {
                    FileRef::Fd(number) => write!(f, ":{number}"),
                    FileRef::Path(_) => Ok(()),
                })
            }
        }
    }
}

impl Serialize for TapRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TapRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "the name of an interface, or fd:N")
    }
}

/// The hardware address of one card: not all zeroes, and not of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// Its bytes, in the order in which they are written.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Mac(text.to_owned());
        let byte = |part: &str| match part.as_bytes() {
            [b'+', _] => None,
            [_, _] => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let bytes: Vec<u8> = text.split([':', '-']).map(byte).collect::<Option<_>>().ok_or_else(bad)?;
        let bytes: [u8; 6] = bytes.try_into().map_err(|_| bad())?;
        if bytes == [0; 6] || bytes[0] & 1 == 1 { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a hardware address such as \"02:00:00:00:00:01\"")
    }
}

/// The longest packet, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mtu(u16);

impl Mtu {
    /// What IPv4 needs at least (RFC 791).
    pub const MIN: Self = Self(68);
    /// What virtio can say.
    pub const MAX: Self = Self(u16::MAX);

    /// In bytes.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for Mtu {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse() {
            Ok(mtu) if mtu >= Self::MIN.0 => Ok(Self(mtu)),
            _ => Err(ValueError::Mtu(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Mtu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::value::text_or_number(deserializer, "an MTU in bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pairs::parse as read;

    #[test]
    fn what_can_be_written() {
        let config: NetConfig =
            read("tap=tap0,mac=02:ab:00:00:00:01,mtu=9000,queues=2,rx-bandwidth=10M").unwrap();
        assert_eq!(config.tap, Some(TapRef::Name("tap0".to_owned())));
        assert_eq!(config.mac.unwrap().bytes(), [2, 0xab, 0, 0, 0, 1]);
        assert_eq!((config.mtu.unwrap().get(), config.pairs()), (9000, 2));
        assert_eq!(config.rates()[0].bandwidth.unwrap().size, 10 << 20);
        assert_eq!(read::<NetConfig>("tap=fd:3:4").unwrap().pairs(), 2);
        assert_eq!(read::<NetConfig>("passt=/run/p").unwrap().passt, Some(FileRef::Path("/run/p".into())));
        for text in ["tap0", "fd:3", "fd:3:4:5"] {
            assert_eq!(text.parse::<TapRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let tap = |text: &str| {
            format!("tap: `{text}` is no tap: write the name of an interface, up to 15 bytes, or fd:N")
        };
        let mac = |text: &str| {
            format!(
                "mac: `{text}` is no hardware address of one card: write six bytes such as 02:00:00:00:00:01"
            )
        };
        for (text, expected) in [
            ("", "nothing is at its other end: name a tap or a passt".to_owned()),
            ("tap=a,passt=b", "a tap and a passt are too much: name one".to_owned()),
            ("passt=b,queues=2", "passt has one pair of queues: leave out queues".to_owned()),
            (
                "tap=fd:3:4,queues=3",
                "each pair of queues has its descriptor: give as many as queues, or leave out queues"
                    .to_owned(),
            ),
            ("tap=0123456789abcdef", tap("0123456789abcdef")),
            ("tap=a/b", tap("a/b")),
            ("tap=..", tap("..")),
            ("tap=tap%d", tap("tap%d")),
            ("tap=", tap("")),
            ("tap=a,mac=02:00", mac("02:00")),
            ("tap=a,mac=01:00:00:00:00:00", mac("01:00:00:00:00:00")),
            ("tap=a,mac=00:00:00:00:00:00", mac("00:00:00:00:00:00")),
            ("tap=a,mac=2:0:0:0:0:1", mac("2:0:0:0:0:1")),
            ("tap=a,mtu=67", "mtu: `67` is no MTU: give 68 to 65535 bytes".to_owned()),
            ("tap=a,queues=0", "queues: `0` is no number of queues: give 1 to 255".to_owned()),
        ] {
            assert_eq!(read::<NetConfig>(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
