//! One socket, N cores, one thread each, said in every way that guests look for it.

use super::leaves::{Leaves, Register, Vendor, leaf};

/// Where APIC IDs stand: function (all its indices), register, lowest bit. Zero until a vCPU is made.
pub(super) const APIC_ID_FIELDS: [(u32, Register, u32); 5] = [
    (leaf::FEATURES, Register::Ebx, 24),
    (leaf::TOPOLOGY, Register::Edx, 0),
    (leaf::TOPOLOGY_V2, Register::Edx, 0),
    (leaf::AMD_TOPOLOGY, Register::Eax, 0),
    // The core's number within its node; with one thread a core it is the APIC ID.
    (leaf::AMD_TOPOLOGY, Register::Ebx, 0),
];

/// Leaf 1, EDX: the field with the number of logical processors is valid.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: that number counts cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001, ECX: leaves 0x8000_001D and 0x8000_001E are there.
const TOPOEXT: u32 = 1 << 22;

/// Caches from this level on are shared by all cores; those before belong to one.
const SHARED_LEVEL: u32 = 3;

pub(super) fn describe(leaves: &mut Leaves, cpus: u8) {
    let count = u32::from(cpus.max(1));
    let cores = Cores { count, id_bits: count.next_power_of_two().ilog2() };
    let vendor = leaves.vendor();

    let ids_or_count = if vendor == Vendor::Amd { cores.count } else { cores.ids().min(255) };
    let entry = leaves.at(leaf::FEATURES, 0);
    entry.ebx = (entry.ebx & 0xffff) | ids_or_count << 16;
    entry.edx = with_bit(entry.edx, HTT, cores.count > 1);

    extended(leaves, leaf::TOPOLOGY, cores);
    leaves.raise(leaf::MAX, leaf::TOPOLOGY);
    if leaves.at(leaf::MAX, 0).eax >= leaf::TOPOLOGY_V2 {
        extended(leaves, leaf::TOPOLOGY_V2, cores);
    } else {
        leaves.remove(leaf::TOPOLOGY_V2);
    }

    intel_caches(leaves, cores);
    if vendor == Vendor::Amd {
        amd(leaves, cores);
    }
}

#[derive(Clone, Copy)]
struct Cores {
    /// How many there are, 1 to 254.
    count: u32,
    /// Bits of an APIC ID that number them.
    id_bits: u32,
}

impl Cores {
    /// How many APIC IDs those bits make.
    fn ids(self) -> u32 {
        1 << self.id_bits
    }
}

/// Intel SDM volume 2A, table 3-8, leaves 0BH and 1FH: a level of threads, one of cores, and the end.
fn extended(leaves: &mut Leaves, function: u32, cores: Cores) {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    leaves.remove(function);
    let levels = [(0, 1, THREAD), (cores.id_bits, cores.count, CORE), (0, 0, 0)];
    for (index, (shift, count, kind)) in (0..).zip(levels) {
        let entry = leaves.at(function, index);
        (entry.eax, entry.ebx, entry.ecx) = (shift, count, kind | index);
    }
}

/// Leaf 04H: EAX bits 4:0 kind (0 ends the list), 7:5 level, 25:14 IDs that share the cache, less one,
/// 31:26 IDs of cores in the package, less one.
fn intel_caches(leaves: &mut Leaves, cores: Cores) {
    for entry in leaves.subleaves(leaf::CACHES).filter(|entry| entry.eax & 0x1f != 0) {
        let sharing = if entry.eax >> 5 & 7 >= SHARED_LEVEL { cores.ids() - 1 } else { 0 };
        entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (cores.ids() - 1).min(0x3f) << 26;
    }
}

/// AMD APM volume 3, E.4.7, E.4.15 and E.4.16.
fn amd(leaves: &mut Leaves, cores: Cores) {
    let entry = leaves.at(leaf::SIZES, 0);
    entry.ecx = (entry.ecx & !0xf0ff) | cores.id_bits << 12 | (cores.count - 1);

    let ecx = &mut leaves.at(leaf::AMD_FEATURES, 0).ecx;
    *ecx = with_bit(*ecx, CMP_LEGACY, cores.count > 1);
    // It describes the host's dies; without it guests take leaf 0BH.
    leaves.remove(leaf::AMD_TOPOLOGY_V2);
    leaves.remove(leaf::AMD_TOPOLOGY);
    if leaves.at(leaf::AMD_FEATURES, 0).ecx & TOPOEXT == 0 {
        leaves.remove(leaf::AMD_CACHES);
        return;
    }
    for entry in leaves.subleaves(leaf::AMD_CACHES).filter(|entry| entry.eax & 0x1f != 0) {
        let sharing = if entry.eax >> 5 & 7 >= SHARED_LEVEL { cores.count - 1 } else { 0 };
        entry.eax = (entry.eax & 0x3fff) | sharing << 14;
    }
    // All zero but for the APIC ID: one thread a core, one node a socket.
    leaves.at(leaf::AMD_TOPOLOGY, 0);
    leaves.raise(leaf::MAX_EXTENDED, leaf::AMD_TOPOLOGY);
}

fn with_bit(value: u32, bit: u32, on: bool) -> u32 {
    if on { value | bit } else { value & !bit }
}
