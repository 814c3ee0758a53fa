//! Ports of the virtio console as a user writes them.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::pairs::Device;
use super::{FileRef, ValueError};

/// A port of the virtio console: what the guest writes to the one of this name goes to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PortConfig {
    /// The name by which the guest finds it: 1 to 64 letters, digits, `.`, `-` and `_`.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Where its output goes.
    #[schemars(with = "String")]
    pub file: FileRef,
}

impl Device for PortConfig {}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if (1..=64).contains(&name.len()) && name.chars().all(plain) {
        Ok(name)
    } else {
        Err(serde::de::Error::custom(ValueError::PortName(name)))
    }
}
