//! Persistent memory as a user writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::Device;
use super::{FileRef, TransportKind};

/// A file in the guest's address space, which the guest sees as persistent memory (`/dev/pmem0`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PmemConfig {
    /// The file, of a whole number of 2 MiB, or fd:N.
    #[schemars(with = "String")]
    pub path: FileRef,
    /// Whether the guest may only read. All VMs that do so share one copy of the file in the host's memory.
    #[serde(default)]
    pub readonly: bool,
    /// Whether what the guest writes is its own and gone when the VM is, instead of written to the file.
    #[serde(default)]
    pub private: bool,
    /// How the guest reaches it; as `transport` says for all if it is not given.
    pub transport: Option<TransportKind>,
}

impl Device for PmemConfig {}
