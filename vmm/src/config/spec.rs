//! The validated specification of a VM. A value of these types can be built without further checks.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    DiskConfig, FileRef, FwCfgFile, ModuleConfig, NetConfig, PmemConfig, PortConfig, RngConfig, VsockConfig,
};

/// All that determines a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    /// What it boots.
    pub boot: BootSpec,
    /// Number of vCPUs, 1 to 254.
    pub cpus: u8,
    /// Its RAM.
    pub memory: MemorySpec,
    /// Which set of legacy devices it has.
    pub machine: MachineKind,
    /// Its virtio devices.
    pub devices: DevicesSpec,
    /// Where its serial console goes.
    pub console: ConsoleSpec,
    /// Whether and how the boot timeline is shown.
    pub timeline: TimelineMode,
    /// When the parent started us: nanoseconds of `CLOCK_MONOTONIC`.
    pub timeline_origin: Option<u64>,
    /// Where the record of how the VM ended goes, as JSON.
    pub result: Option<FileRef>,
    /// Promise the guest a TSC that never changes its rate (the VM then cannot be migrated).
    pub invtsc: bool,
}

/// What a VM boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSpec {
    /// `bzImage` or ELF; may be absent only when there is a firmware.
    pub kernel: Option<FileRef>,
    /// Initial RAM file system.
    pub initrd: Option<FileRef>,
    /// Kernel command line, without NUL.
    pub cmdline: String,
    /// ROM image, mapped so that it ends at 4 GiB.
    pub firmware: Option<FileRef>,
    /// What the firmware loads beside the kernel; none without a firmware.
    pub modules: Vec<ModuleConfig>,
    /// Further files of the firmware configuration device; none without a firmware.
    pub fw_cfg: Vec<FwCfgFile>,
    /// How the kernel is entered.
    pub protocol: Protocol,
    /// Whether the payload of a `bzImage` is unpacked on the host.
    pub unpack: bool,
    /// Where an unpacked kernel is placed.
    pub kaslr: Kaslr,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The 64-bit Linux protocol where the kernel has it, else PVH.
    #[default]
    Auto,
    /// Linux's 64-bit boot protocol.
    Linux64,
    /// PVH, by the ELF note `XEN_ELFNOTE_PHYS32_ENTRY` (18).
    Pvh,
    /// Linux's 32-bit boot protocol; needs a firmware.
    Linux32,
    /// Linux's setup code in real mode; needs a firmware.
    Linux16,
    /// Multiboot; needs a firmware.
    Multiboot1,
    /// Multiboot 2; needs a firmware.
    Multiboot2,
    /// Jiffy's contract for unikernels; needs a firmware.
    Elf64,
}

impl Protocol {
    /// What a firmware is asked for.
    #[must_use]
    pub const fn of_firmware(self) -> Option<abi::firmware::Protocol> {
        use abi::firmware::Protocol as Firmware;
        Some(match self {
            Self::Auto => return None,
            Self::Linux64 => Firmware::Linux64,
            Self::Pvh => Firmware::Pvh,
            Self::Linux32 => Firmware::Linux32,
            Self::Linux16 => Firmware::Linux16,
            Self::Multiboot1 => Firmware::Multiboot1,
            Self::Multiboot2 => Firmware::Multiboot2,
            Self::Elf64 => Firmware::Elf64,
        })
    }

    /// Whether a kernel can be entered so without a firmware.
    #[must_use]
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Auto | Self::Linux64 | Self::Pvh)
    }
}

/// Kernel address space layout randomisation of an unpacked `bzImage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kaslr {
    /// A fresh random offset.
    #[default]
    Random,
    /// No offset.
    Off,
    /// An offset drawn from this seed, for runs that must repeat.
    Seed(u64),
}

/// Guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySpec {
    /// Bytes; a multiple of 4 KiB (of the huge page where one is asked for).
    pub size: u64,
    /// Huge pages behind it.
    pub huge: HugePages,
    /// Touch all of it before the guest starts.
    pub prealloc: bool,
    /// Shared with other processes (a memfd) instead of private.
    pub shared: bool,
}

/// Huge pages behind guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// As the host is configured.
    #[default]
    Default,
    /// Transparent huge pages, asked for with `madvise`.
    Thp,
    /// 2 MiB pages from the host's pool (hugetlbfs).
    #[value(name = "2M")]
    #[serde(rename = "2M")]
    Size2M,
    /// 1 GiB pages from the host's pool.
    #[value(name = "1G")]
    #[serde(rename = "1G")]
    Size1G,
}

/// Which set of legacy devices a machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MachineKind {
    /// Only what a modern guest needs.
    #[default]
    Fast,
    /// PIT, PIC, RTC and CMOS memory sizes as well, for old kernels and memory testers.
    Legacy,
}

/// The virtio devices of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicesSpec {
    /// How the guest reaches them, where a device does not say otherwise.
    pub transport: TransportKind,
    /// Its disks.
    pub disks: Vec<DiskConfig>,
    /// Its network cards.
    pub nets: Vec<NetConfig>,
    /// Its socket device.
    pub vsock: Option<VsockConfig>,
    /// Its persistent memory.
    pub pmem: Vec<PmemConfig>,
    /// Its entropy device.
    pub rng: Option<RngConfig>,
    /// What carries the console.
    pub console: ConsoleDevice,
    /// Further ports of the virtio console; with any, there is one.
    pub ports: Vec<PortConfig>,
}

/// What carries a guest's console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleDevice {
    /// The first serial port.
    #[default]
    Serial,
    /// Port 0 of a virtio console.
    Virtio,
}

/// How a guest reaches a virtio device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TransportKind {
    /// A page of registers and an interrupt line, found through ACPI.
    #[default]
    Mmio,
    /// The same, found by a word of the kernel's command line.
    MmioCmdline,
    /// A function on a PCI Express bus, with messages for interrupts.
    Pci,
}

/// Where the serial console goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConsoleSpec {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Output to this file; no input.
    File(FileRef),
    /// Nowhere.
    Off,
}

/// Whether and how the boot timeline is shown, on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimelineMode {
    /// Not shown.
    #[default]
    Off,
    /// A table with bars.
    Text,
    /// One JSON object.
    Json,
}
