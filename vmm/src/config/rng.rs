//! The entropy device as a user writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TransportKind;
use super::pairs::Device;

/// An entropy device, which gives the guest random numbers of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RngConfig {
    /// How the guest reaches it; as `transport` says for all if it is not given.
    pub transport: Option<TransportKind>,
}

impl Device for RngConfig {}
