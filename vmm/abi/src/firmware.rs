//! What Jiffy's firmware is told, and how it says that something failed.

use crate::layout::{EBDA, FIRMWARE_RAM, Range};

/// Memory that any start touches. A VMM that has it ready spares the guest a fault for each page.
pub const TOUCHED: [Range; 4] = [
    Range::new(0, 0x1000),
    Range::new(0x9000, 0xa000),
    Range::new(FIRMWARE_RAM.end() - 0x5000, FIRMWARE_RAM.end() - 0x1000),
    Range::new(EBDA.end() - 0x1000, EBDA.end()),
];

/// fw_cfg file: the payload, as it is on disk.
pub const KERNEL: &str = "opt/jiffy/kernel";
/// fw_cfg file: the command line; a NUL at its end may be left out.
pub const CMDLINE: &str = "opt/jiffy/cmdline";
/// fw_cfg file: an archive of modules; see [`crate::modules`].
pub const MODULES: &str = "opt/jiffy/modules";
/// fw_cfg file: how the payload is entered, by one of the words of [`Protocol::word`]. Without it the firmware finds out.
pub const PROTOCOL: &str = "opt/jiffy/protocol";

/// A way to enter a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Linux's 64-bit boot protocol.
    Linux64,
    /// Linux's 32-bit boot protocol.
    Linux32,
    /// Linux's setup code, in real mode.
    Linux16,
    /// The x86/HVM direct boot ABI.
    Pvh,
    /// Multiboot 0.6.96.
    Multiboot1,
    /// Multiboot 2.
    Multiboot2,
    /// [`crate::unikernel`].
    Elf64,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Linux64,
        Self::Linux32,
        Self::Linux16,
        Self::Pvh,
        Self::Multiboot1,
        Self::Multiboot2,
        Self::Elf64,
    ];

    /// What asks for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Linux64 => "linux64",
            Self::Linux32 => "linux32",
            Self::Linux16 => "linux16",
            Self::Pvh => "pvh",
            Self::Multiboot1 => "multiboot1",
            Self::Multiboot2 => "multiboot2",
            Self::Elf64 => "elf64",
        }
    }
}

/// Why the firmware gave up: the byte that it writes to [`crate::ports::DEBUG_EXIT`]. QEMU's exit status is twice that
/// plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u8);

impl Code {
    /// There is nothing to boot.
    pub const NOTHING_TO_BOOT: Self = Self(0x10);
    /// The firmware panicked, which is a bug of its own.
    pub const PANICKED: Self = Self(0x11);
    /// The machine has no fw_cfg device.
    pub const NO_FW_CFG: Self = Self(0x12);
    /// The machine has no memory map, or no memory where it is needed.
    pub const NO_MEMORY: Self = Self(0x13);
    /// The script of the ACPI tables is wrong.
    pub const ACPI: Self = Self(0x14);
    /// PCI devices ask for more than there is.
    pub const PCI: Self = Self(0x15);
    /// The kernel is malformed, or of no known format.
    pub const KERNEL: Self = Self(0x16);
    /// The Multiboot header is malformed, or requires what there is not.
    pub const MULTIBOOT: Self = Self(0x17);
    /// The archive of modules is malformed.
    pub const MODULES: Self = Self(0x18);
    /// [`PROTOCOL`] has an unknown word, or one that is none of this kernel's.
    pub const PROTOCOL: Self = Self(0x19);
    /// Kernel, modules or tables do not fit in memory.
    pub const NO_ROOM: Self = Self(0x1a);
}
