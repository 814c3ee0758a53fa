//! What a firmware is given beside a kernel, as a user writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FileRef;
use super::pairs::Device;

/// A file of the firmware configuration device, from a file or from text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FwCfgFile {
    /// By which the guest finds it: up to 55 bytes; those of your own begin with opt/.
    pub name: String,
    /// Where its content is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub file: Option<FileRef>,
    /// Its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string: Option<String>,
}

/// A module: a file that the firmware loads beside the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModuleConfig {
    /// The file.
    #[schemars(with = "String")]
    pub file: FileRef,
    /// Its command line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
}

impl Device for FwCfgFile {
    fn check(&self) -> Result<(), &'static str> {
        if self.file.is_some() == self.string.is_some() {
            return Err("give its content by file=FILE or by string=TEXT");
        }
        Ok(())
    }
}

impl Device for ModuleConfig {}
