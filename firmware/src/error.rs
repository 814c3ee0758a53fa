//! Why nothing was booted.

use abi::firmware::Code;
use thiserror::Error;

/// What failed, where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// No selector, or one that does not answer.
    #[error("there is no fw_cfg device at port {:#x}", abi::fw_cfg::SELECTOR)]
    NoFwCfg,
    /// The device says that a transfer failed.
    #[error("fw_cfg: DMA of {len} bytes of item {item:#x} failed")]
    Dma {
        /// Its selector.
        item: u16,
        /// Bytes asked for.
        len: u32,
    },
    /// More files than there is room for.
    #[error("fw_cfg: {count} files, more than {max}")]
    Directory {
        /// Files.
        count: u32,
        /// Files that there is room for.
        max: u32,
    },
    /// See [`memory_map::Error`](crate::memory_map::Error).
    #[error("memory map: {0}")]
    Map(#[from] crate::memory_map::Error),
    /// See [`pci::Error`](crate::pci::Error).
    #[error("PCI: {0}")]
    Pci(#[from] crate::pci::Error),
    /// See [`acpi::Error`](crate::acpi::Error).
    #[error("etc/table-loader: {0}")]
    Acpi(#[from] crate::acpi::Error),
    /// Neither `-kernel` nor a file.
    #[error("nothing to boot: give a kernel by -kernel or as fw_cfg file {}", abi::firmware::KERNEL)]
    NothingToBoot,
    /// See [`payload::Error`](crate::payload::Error).
    #[error("kernel: {0}")]
    Payload(#[from] crate::payload::Error),
    /// See [`payload::modules::Error`](crate::payload::modules::Error).
    #[error("{file}: {0}", file = abi::firmware::MODULES)]
    Modules(#[from] crate::payload::modules::Error),
}

impl Error {
    /// What the host is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoFwCfg | Self::Dma { .. } | Self::Directory { .. } => Code::NO_FW_CFG,
            Self::Map(_) => Code::NO_MEMORY,
            Self::Pci(_) => Code::PCI,
            Self::Acpi(_) => Code::ACPI,
            Self::NothingToBoot => Code::NOTHING_TO_BOOT,
            Self::Payload(error) => error.code(),
            Self::Modules(_) => Code::MODULES,
        }
    }
}
