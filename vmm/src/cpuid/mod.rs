//! What a guest's CPUID says: what KVM supports, as one socket of N cores with one thread each.
//!
//! A [`Template`] is made once for a VM; each vCPU takes a copy in which only its APIC ID is filled in.
//!
//! KVM has already taken out what it cannot virtualise (performance counters are as KVM gives them), and it
//! keeps the bits that follow a guest's CR4 (OSXSAVE, OSPKE) up to date by itself. What KVM reports of the
//! host's own topology is replaced here, because it describes the CPU that the ioctl happened to run on.

mod leaves;
mod time;
mod topology;

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;

use kvm_bindings::kvm_cpuid_entry2;
use leaves::{Leaves, Register, leaf};
use thiserror::Error;

/// What cannot be promised to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// An invariant TSC was asked for.
    #[error("this host's KVM offers no invariant TSC (CPUID 0x80000007, EDX bit 8): run without `invtsc`")]
    NoInvariantTsc,
}

/// What the VM decides about its CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Number of vCPUs, 1 to 254; their APIC IDs are 0 up to one less.
    pub cpus: u8,
    /// Whether the in-kernel local APIC has a TSC-deadline timer (`KVM_CAP_TSC_DEADLINE_TIMER`).
    pub tsc_deadline: bool,
    /// The guest's TSC rate in kHz (`KVM_GET_TSC_KHZ`), if it is known.
    pub tsc_khz: Option<u32>,
    /// Promise a TSC that never changes its rate, nor stops.
    pub invtsc: bool,
}

/// The CPUID of every vCPU of a VM, but for their APIC IDs.
#[derive(Clone, Debug)]
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    apic_ids: Vec<ApicIdField>,
}

/// A place that holds the APIC ID; it is zero in the template.
#[derive(Clone, Copy, Debug)]
struct ApicIdField {
    entry: usize,
    register: Register,
    shift: u32,
}

/// Bits of leaf 1, ECX (Intel SDM volume 2A, table 3-10).
mod feature {
    pub(super) const MONITOR: u32 = 1 << 3;
    pub(super) const X2APIC: u32 = 1 << 21;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const OSXSAVE: u32 = 1 << 27;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
    /// Leaf 7, ECX.
    pub(super) const OSPKE: u32 = 1 << 4;
}

impl Template {
    /// Makes the template from what `KVM_GET_SUPPORTED_CPUID` gave, in any order.
    pub fn new(supported: &[kvm_cpuid_entry2], options: &Options) -> Result<Self, Error> {
        let mut leaves = Leaves::new(supported);
        features(&mut leaves, options);
        topology::describe(&mut leaves, options.cpus);
        time::describe(&mut leaves, options)?;
        announce(&mut leaves);
        let apic_ids = topology::APIC_ID_FIELDS
            .iter()
            .flat_map(|&(function, register, shift)| {
                let field = move |entry| ApicIdField { entry, register, shift };
                leaves.positions(function).map(field)
            })
            .collect();
        Ok(Self { entries: leaves.into_entries(), apic_ids })
    }

    /// The entries for `KVM_SET_CPUID2` of the vCPU with this APIC ID, sorted by function and index.
    #[must_use]
    pub fn for_vcpu(&self, apic_id: u8) -> Vec<kvm_cpuid_entry2> {
        let mut entries = self.entries.clone();
        for field in &self.apic_ids {
            *field.register.of(&mut entries[field.entry]) |= u32::from(apic_id) << field.shift;
        }
        entries
    }
}

fn features(leaves: &mut Leaves, options: &Options) {
    let ecx = &mut leaves.at(leaf::FEATURES, 0).ecx;
    *ecx |= feature::HYPERVISOR | feature::X2APIC;
    *ecx &= !(feature::MONITOR | feature::OSXSAVE | feature::TSC_DEADLINE);
    if options.tsc_deadline {
        *ecx |= feature::TSC_DEADLINE;
    }
    // Without MONITOR/MWAIT the leaf that describes it is reserved.
    leaves.remove(leaf::MONITOR);
    if let Some(entry) = leaves.get_mut(leaf::EXTENDED_FEATURES, 0) {
        entry.ecx &= !feature::OSPKE;
    }
}

fn announce(leaves: &mut Leaves) {
    let [eax, ebx, ecx, edx] = abi::announce::registers();
    let entry = leaves.at(abi::announce::LEAF, 0);
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
}
