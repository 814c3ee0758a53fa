//! The socket device as a user writes it.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use super::pairs::Device;
use super::value::text_or_number;
use super::{FileRef, TransportKind, ValueError};

/// A socket device, by which guest and host programs talk without a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, DeriveDeserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context identifier, from 3 on.
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub cid: Cid,
    /// The Unix socket at which the host's programs reach the guest: they write "CONNECT PORT" and a newline. The guest
    /// reaches those that listen at PATH_PORT.
    #[schemars(with = "String")]
    pub path: FileRef,
    /// How the guest reaches it; as `transport` says for all if it is not given.
    pub transport: Option<TransportKind>,
}

impl Device for VsockConfig {}

/// A context identifier that a guest can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cid(u32);

impl Cid {
    /// 0 to 2 stand for the hypervisor, the machine itself and the host.
    pub const MIN: Self = Self(3);
    /// All ones stand for any.
    pub const MAX: Self = Self(u32::MAX - 1);

    /// As a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Cid {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse() {
            Ok(cid) if (Self::MIN.0..=Self::MAX.0).contains(&cid) => Ok(Self(cid)),
            _ => Err(ValueError::Cid(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "a context identifier")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pairs::parse;

    #[test]
    fn what_can_be_written() {
        let config = parse::<VsockConfig>("cid=3,path=/run/x.sock,transport=pci").unwrap();
        let path = FileRef::Path("/run/x.sock".into());
        assert_eq!(config, VsockConfig { cid: Cid(3), path, transport: Some(TransportKind::Pci) });
        for (text, expected) in [
            ("path=x", "`cid` is missing: add cid=…"),
            ("cid=3", "`path` is missing: add path=…"),
            ("cid=2,path=x", "cid: `2` is no context identifier of a guest: give 3 to 4294967294"),
            (
                "cid=4294967295,path=x",
                "cid: `4294967295` is no context identifier of a guest: give 3 to 4294967294",
            ),
            ("cid=3,path=", "path: the path is empty: name a file"),
        ] {
            assert_eq!(parse::<VsockConfig>(text).unwrap_err().to_string(), expected);
        }
    }
}
