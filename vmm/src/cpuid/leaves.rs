//! A set of CPUID entries, sorted, at most one for each function and index.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Functions by name (Intel SDM volume 2A, "CPUID"; AMD APM volume 3, appendix E).
pub(super) mod leaf {
    pub(crate) const MAX: u32 = 0;
    pub(crate) const FEATURES: u32 = 1;
    pub(crate) const CACHES: u32 = 4;
    pub(crate) const MONITOR: u32 = 5;
    pub(crate) const EXTENDED_FEATURES: u32 = 7;
    pub(crate) const TOPOLOGY: u32 = 0xb;
    pub(crate) const TSC: u32 = 0x15;
    pub(crate) const FREQUENCY: u32 = 0x16;
    pub(crate) const TOPOLOGY_V2: u32 = 0x1f;
    /// Of the hypervisor; under KVM with KVM's signature.
    pub(crate) const HYPERVISOR: u32 = 0x4000_0000;
    /// Rates of TSC and APIC bus, a custom that VMware began.
    pub(crate) const HYPERVISOR_TIMING: u32 = 0x4000_0010;
    pub(crate) const MAX_EXTENDED: u32 = 0x8000_0000;
    pub(crate) const AMD_FEATURES: u32 = 0x8000_0001;
    pub(crate) const POWER: u32 = 0x8000_0007;
    pub(crate) const SIZES: u32 = 0x8000_0008;
    pub(crate) const AMD_CACHES: u32 = 0x8000_001d;
    pub(crate) const AMD_TOPOLOGY: u32 = 0x8000_001e;
    pub(crate) const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;
}

/// Functions made here whose answer depends on ECX.
const INDEXED: [u32; 2] = [leaf::TOPOLOGY, leaf::TOPOLOGY_V2];

/// One of the registers that CPUID writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Edx,
}

impl Register {
    pub(super) fn of(self, entry: &mut kvm_cpuid_entry2) -> &mut u32 {
        match self {
            Self::Eax => &mut entry.eax,
            Self::Ebx => &mut entry.ebx,
            Self::Edx => &mut entry.edx,
        }
    }
}

/// Who made the processor, as far as it decides which leaves mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    Intel,
    /// AMD, or Hygon, which follows it.
    Amd,
    Other,
}

pub(super) struct Leaves(Vec<kvm_cpuid_entry2>);

impl Leaves {
    /// Sorts `entries`; of two with the same function and index the first stays.
    pub(super) fn new(entries: &[kvm_cpuid_entry2]) -> Self {
        let mut entries = entries.to_vec();
        entries.sort_by_key(key);
        entries.dedup_by_key(|entry| key(entry));
        Self(entries)
    }

    pub(super) fn vendor(&mut self) -> Vendor {
        let max = *self.at(leaf::MAX, 0);
        match [max.ebx, max.edx, max.ecx].map(u32::to_le_bytes).as_flattened() {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        }
    }

    /// Makes sure that `function` is within its range: `max` is the leaf that holds the range's last function.
    pub(super) fn raise(&mut self, max: u32, function: u32) {
        let last = &mut self.at(max, 0).eax;
        *last = function.max(*last);
    }

    /// The entry, made of zeros if it was not there.
    pub(super) fn at(&mut self, function: u32, index: u32) -> &mut kvm_cpuid_entry2 {
        let position = self.0.binary_search_by_key(&(function, index), key).unwrap_or_else(|position| {
            let flags = if INDEXED.contains(&function) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
            self.0.insert(position, kvm_cpuid_entry2 { function, index, flags, ..Default::default() });
            position
        });
        &mut self.0[position]
    }

    pub(super) fn get_mut(&mut self, function: u32, index: u32) -> Option<&mut kvm_cpuid_entry2> {
        let position = self.0.binary_search_by_key(&(function, index), key).ok()?;
        Some(&mut self.0[position])
    }

    /// Takes out all entries of a function; KVM then answers zeros, as long as it is within its range.
    pub(super) fn remove(&mut self, function: u32) {
        self.0.retain(|entry| entry.function != function);
    }

    pub(super) fn subleaves(&mut self, function: u32) -> impl Iterator<Item = &mut kvm_cpuid_entry2> {
        self.0.iter_mut().filter(move |entry| entry.function == function)
    }

    /// Where the entries of a function are in what [`Leaves::into_entries`] will give.
    pub(super) fn positions(&self, function: u32) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|entry| entry.function < function);
        let end = self.0.partition_point(|entry| entry.function <= function);
        start..end
    }

    pub(super) fn into_entries(self) -> Vec<kvm_cpuid_entry2> {
        self.0
    }
}

fn key(entry: &kvm_cpuid_entry2) -> (u32, u32) {
    (entry.function, entry.index)
}
