//! Guest-physical addresses.
//!
//! ```text
//! 0x0000_0500  boot GDT                    0xc000_0000  start of the 32-bit hole; PCI BARs
//! 0x0000_6000  PVH start info              0xd000_0000  virtio-mmio windows
//! 0x0000_7000  zero page                   0xe000_0000  PCI ECAM
//! 0x0000_9000  boot page tables            0xfec0_0000  IOAPIC
//! 0x0002_0000  command line                0xfee0_0000  local APIC
//! 0x0007_0000  firmware's stack, buffers   0xfeff_c000  KVM's own pages (Intel)
//! 0x0009_fc00  EBDA                        0xff00_0000  ROM, up to 4 GiB
//! 0x000e_0000  ACPI tables, RSDP first     0x1_0000_0000  RAM that the hole displaced
//! 0x0010_0000  high memory
//! ```

/// A half-open range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Range {
    /// The range `[start, end)`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        assert!(start < end);
        Self { start, len: end - start }
    }

    /// First address after the range.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.len
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// Boot GDT; four descriptors (Linux boot protocol, "64-bit Boot Protocol": `__BOOT_CS` 0x10, `__BOOT_DS` 0x18).
pub const BOOT_GDT: Range = Range::new(0x500, 0x540);
/// `hvm_start_info`, then its module list and memory map (Xen, `xen/include/public/arch-x86/hvm/start_info.h`).
pub const PVH_START_INFO: Range = Range::new(0x6000, 0x7000);
/// Linux's `boot_params`.
pub const ZERO_PAGE: Range = Range::new(0x7000, 0x8000);
/// PML4, page-directory-pointer table and page directories of the identity map at a 64-bit entry.
pub const BOOT_PAGE_TABLES: Range = Range::new(0x9000, 0x2_0000);
/// Command line, NUL-terminated.
pub const CMDLINE: Range = Range::new(0x2_0000, 0x3_0000);
/// Stack and buffers of our own firmware.
pub const FIRMWARE_RAM: Range = Range::new(0x7_0000, 0x9_8000);
/// Extended BIOS data area: the end of conventional memory.
pub const EBDA: Range = Range::new(0x9_fc00, 0xa_0000);
/// ACPI tables; the RSDP is at the start, where a scan of the BIOS area finds it (ACPI 6.5, 5.2.5.1).
pub const ACPI: Range = Range::new(0xe_0000, 0x10_0000);
/// Start of memory above 1 MiB.
pub const HIGH_RAM_START: u64 = 0x10_0000;
/// The hole in RAM for memory-mapped devices; RAM that it displaces continues at 4 GiB.
pub const HOLE: Range = Range::new(0xc000_0000, 0x1_0000_0000);
/// Memory BARs of PCI devices.
pub const PCI_MMIO: Range = Range::new(0xc000_0000, 0xd000_0000);
/// I/O ports of PCI devices: port numbers, not addresses.
pub const PCI_PORTS: Range = Range::new(0xc000, 0xe000);
/// Windows of virtio-mmio devices.
pub const VIRTIO_MMIO: Range = Range::new(0xd000_0000, 0xd010_0000);
/// PCI Express enhanced configuration space of one segment.
pub const PCI_ECAM: Range = Range::new(0xe000_0000, 0xf000_0000);
/// The in-kernel IOAPIC.
pub const IOAPIC: Range = Range::new(0xfec0_0000, 0xfec0_1000);
/// The in-kernel local APIC.
pub const LAPIC: Range = Range::new(0xfee0_0000, 0xfee0_1000);
/// One page for `KVM_SET_IDENTITY_MAP_ADDR` and three for `KVM_SET_TSS_ADDR` (needed on Intel).
pub const KVM_PRIVATE: Range = Range::new(0xfeff_c000, 0xff00_0000);
/// ROM; an image is placed so that it ends at 4 GiB.
pub const ROM: Range = Range::new(0xff00_0000, 0x1_0000_0000);
/// A copy of the ROM's last 128 KiB stands here, for code that runs in real mode.
pub const ROM_SHADOW: Range = Range::new(0xe_0000, 0x10_0000);

const LOW: [Range; 8] =
    [BOOT_GDT, PVH_START_INFO, ZERO_PAGE, BOOT_PAGE_TABLES, CMDLINE, FIRMWARE_RAM, EBDA, ACPI];
const IN_HOLE: [Range; 7] = [PCI_MMIO, VIRTIO_MMIO, PCI_ECAM, IOAPIC, LAPIC, KVM_PRIVATE, ROM];

const fn ascending(ranges: &[Range]) -> bool {
    let mut i = 1;
    while i < ranges.len() {
        if ranges[i - 1].end() > ranges[i].start {
            return false;
        }
        i += 1;
    }
    true
}

const _: () = assert!(ascending(&LOW) && LOW[7].end() <= HIGH_RAM_START);
const _: () =
    assert!(ascending(&IN_HOLE) && IN_HOLE[0].start >= HOLE.start && IN_HOLE[6].end() <= HOLE.end());
