//! How fast the TSC runs, for guests that would otherwise have to measure it.
//!
//! Linux takes the rate from KVM's own clock page. Leaf 0x4000_0010 serves guests that know no such page but
//! look for the custom that VMware began (the BSDs, some unikernels; newer Linux too); leaves 15H and 16H serve
//! those that ask an Intel processor as the manual says. AMD has no architectural leaf for it (its rate is in
//! P-state registers, which KVM does not give), so there the two stay as KVM has them: zero.

use super::leaves::{Leaves, Vendor, leaf};
use super::{Error, Options};

/// Rate of KVM's local APIC timer before its divider: one tick a nanosecond.
const APIC_BUS_KHZ: u32 = 1_000_000;
/// What leaf 16H gives as the reference clock: 100 MHz, as Intel's processors do.
const REFERENCE_MHZ: u32 = 100;
/// Leaf 0x8000_0007, EDX.
const INVARIANT_TSC: u32 = 1 << 8;

pub(super) fn describe(leaves: &mut Leaves, options: &Options) -> Result<(), Error> {
    let offered = leaves.get_mut(leaf::POWER, 0).is_some_and(|entry| entry.edx & INVARIANT_TSC != 0);
    match (options.invtsc, offered) {
        (true, false) => return Err(Error::NoInvariantTsc),
        // A guest that relies on it could not move to a host with another rate.
        (false, true) => leaves.at(leaf::POWER, 0).edx &= !INVARIANT_TSC,
        (true, true) | (false, false) => {}
    }
    let vendor = leaves.vendor();
    if vendor == Vendor::Intel {
        leaves.remove(leaf::TSC);
        leaves.remove(leaf::FREQUENCY);
    }
    let Some(tsc_khz) = options.tsc_khz.filter(|&khz| khz > 0) else { return Ok(()) };
    if leaves.get_mut(leaf::HYPERVISOR, 0).is_some() {
        let entry = leaves.at(leaf::HYPERVISOR_TIMING, 0);
        (entry.eax, entry.ebx) = (tsc_khz, APIC_BUS_KHZ);
        leaves.raise(leaf::HYPERVISOR, leaf::HYPERVISOR_TIMING);
    }
    if vendor == Vendor::Intel {
        intel(leaves, tsc_khz);
    }
    Ok(())
}

/// Intel SDM volume 2A, table 3-8: leaf 15H is EBX/EAX = TSC / crystal, ECX = crystal in Hz; where it is given,
/// the crystal is also what the APIC timer counts, which under KVM is [`APIC_BUS_KHZ`]. Leaf 16H is in MHz.
fn intel(leaves: &mut Leaves, tsc_khz: u32) {
    let divisor = gcd(tsc_khz, APIC_BUS_KHZ);
    let (numerator, denominator) = (tsc_khz / divisor, APIC_BUS_KHZ / divisor);
    // Linux multiplies kHz by the numerator in 32 bits; a rate that would overflow is left to leaf 16H.
    if APIC_BUS_KHZ.checked_mul(numerator).is_some() {
        let entry = leaves.at(leaf::TSC, 0);
        (entry.eax, entry.ebx, entry.ecx) = (denominator, numerator, APIC_BUS_KHZ * 1000);
    }
    let mhz = tsc_khz.saturating_add(500) / 1000;
    let entry = leaves.at(leaf::FREQUENCY, 0);
    (entry.eax, entry.ebx, entry.ecx) = (mhz, mhz, REFERENCE_MHZ);
    leaves.raise(leaf::MAX, leaf::FREQUENCY);
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
