use super::recorded::{ALL, amd_turin, intel_i5, intel_xeon};
use super::*;
use proptest::prelude::*;

const OPTIONS: Options = Options { cpus: 4, tsc_deadline: true, tsc_khz: Some(2_400_000), invtsc: false };

fn with(cpus: u8) -> Options {
    Options { cpus, ..OPTIONS }
}

fn vcpu(supported: &[kvm_cpuid_entry2], options: &Options, apic_id: u8) -> Vec<kvm_cpuid_entry2> {
    Template::new(supported, options).expect("a template").for_vcpu(apic_id)
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<[u32; 4]> {
    entries.iter().find(|e| (e.function, e.index) == (function, index)).map(|e| [e.eax, e.ebx, e.ecx, e.edx])
}

fn get(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    find(entries, function, index).unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"))
}

#[test]
fn four_cores_on_intel() {
    let cpu = vcpu(&intel_i5(), &OPTIONS, 3);
    assert_eq!(get(&cpu, 1, 0)[1], 0x0304_0800, "APIC ID 3, 4 IDs, CLFLUSH size as it was");
    assert_ne!(get(&cpu, 1, 0)[3] & 1 << 28, 0, "HTT");
    assert_eq!(get(&cpu, 4, 0)[0], 0x0c00_0121, "L1 data: its own; 4 IDs of cores");
    assert_eq!(get(&cpu, 4, 2)[0], 0x0c00_0143, "L2: its own");
    assert_eq!(get(&cpu, 4, 3)[0], 0x0c00_c163, "L3: shared by 4");
    assert_eq!(get(&cpu, 4, 4), [0; 4]);
    assert_eq!(get(&cpu, 0xb, 0), [0, 1, 0x100, 3]);
    assert_eq!(get(&cpu, 0xb, 1), [2, 4, 0x201, 3]);
    assert_eq!(get(&cpu, 0xb, 2), [0, 0, 2, 3]);
    assert_eq!(find(&cpu, 0x1f, 0), None, "the processor's last leaf is 0x16");
    assert_eq!(get(&cpu, 0x8000_0008, 0)[2], 0, "reserved on Intel");
    assert_eq!(find(&cpu, 0x8000_001e, 0), None);
}

#[test]
fn four_cores_on_amd() {
    let cpu = vcpu(&amd_turin(), &OPTIONS, 2);
    assert_eq!(get(&cpu, 1, 0)[1], 0x0204_0800);
    assert_eq!(get(&cpu, 4, 0), [0; 4], "Intel's cache leaf says nothing");
    assert_eq!(get(&cpu, 0xb, 1), [2, 4, 0x201, 2]);
    assert_eq!(get(&cpu, 0x8000_0008, 0)[2], 0x2003, "4 cores, 2 bits of APIC ID");
    assert_ne!(get(&cpu, 0x8000_0001, 0)[2] & 1 << 1, 0, "CmpLegacy: cores, not threads");
    assert_eq!(get(&cpu, 0x8000_001d, 0)[0], 0x0121, "L1: its own");
    assert_eq!(get(&cpu, 0x8000_001d, 3)[0], 0xc163, "L3: shared by 4");
    assert_eq!(get(&cpu, 0x8000_001e, 0), [2, 2, 0, 0], "APIC ID, core ID, one thread, one node");
}

#[test]
fn one_core_needs_no_bits() {
    let cpu = vcpu(&amd_turin(), &with(1), 0);
    assert_eq!(get(&cpu, 1, 0)[3] & 1 << 28, 0, "HTT is off");
    assert_eq!(get(&cpu, 0xb, 1), [0, 1, 0x201, 0]);
    assert_eq!(get(&cpu, 0x8000_0008, 0)[2], 0);
    assert_eq!(get(&cpu, 0x8000_001d, 3)[0], 0x0163 & 0x3fff);
    assert_eq!(get(&vcpu(&intel_i5(), &with(1), 0), 4, 3)[0] >> 14, 0);
}

#[test]
fn leaf_1f_where_the_processor_has_it() {
    let mut supported = intel_xeon();
    supported[0].eax = 0x20;
    let cpu = vcpu(&supported, &with(6), 5);
    assert_eq!(get(&cpu, 0x1f, 0), [0, 1, 0x100, 5]);
    assert_eq!(get(&cpu, 0x1f, 1), [3, 6, 0x201, 5]);
    assert_eq!(get(&cpu, 0x1f, 1), get(&cpu, 0xb, 1));
}

#[test]
fn the_hosts_dies_are_hidden() {
    let mut supported = amd_turin();
    supported.push(kvm_cpuid_entry2 { function: 0x8000_0026, eax: 7, ..Default::default() });
    assert_eq!(find(&vcpu(&supported, &OPTIONS, 0), 0x8000_0026, 0), None);
}

#[test]
fn without_topoext_its_leaves_are_absent() {
    let mut supported = amd_turin();
    for entry in supported.iter_mut().filter(|entry| entry.function == 0x8000_0001) {
        entry.ecx &= !(1 << 22);
    }
    let cpu = vcpu(&supported, &OPTIONS, 0);
    assert_eq!(find(&cpu, 0x8000_001d, 0), None);
    assert_eq!(find(&cpu, 0x8000_001e, 0), None);
}

#[test]
fn features_of_a_virtual_machine() {
    for supported in ALL {
        let ecx = get(&vcpu(&supported(), &OPTIONS, 0), 1, 0)[2];
        assert_eq!(ecx & 1 << 31, 1 << 31, "hypervisor");
        assert_eq!(ecx & 1 << 21, 1 << 21, "x2APIC");
        assert_eq!(ecx & 1 << 24, 1 << 24, "TSC deadline");
        assert_eq!(ecx & 1 << 3, 0, "MONITOR");
        assert_eq!(ecx & 1 << 27, 0, "OSXSAVE follows CR4");
        assert_eq!(find(&vcpu(&supported(), &OPTIONS, 0), 5, 0), None);
        let without = Options { tsc_deadline: false, ..OPTIONS };
        assert_eq!(get(&vcpu(&supported(), &without, 0), 1, 0)[2] & 1 << 24, 0);
    }
}

#[test]
fn invariant_tsc_only_on_request() {
    for supported in ALL {
        assert_eq!(get(&vcpu(&supported(), &OPTIONS, 0), 0x8000_0007, 0)[3], 0);
        let asked = Options { invtsc: true, ..OPTIONS };
        assert_eq!(get(&vcpu(&supported(), &asked, 0), 0x8000_0007, 0)[3], 1 << 8);
    }
    let mut supported = intel_i5();
    supported.retain(|entry| entry.function != 0x8000_0007);
    let refused = Template::new(&supported, &Options { invtsc: true, ..OPTIONS });
    assert_eq!(refused.map(|_| ()), Err(Error::NoInvariantTsc));
}

#[test]
fn rates() {
    let intel = vcpu(&intel_xeon(), &OPTIONS, 0);
    assert_eq!(get(&intel, 0x15, 0), [5, 12, 1_000_000_000, 0], "2.4 GHz of a 1 GHz crystal");
    assert_eq!(get(&intel, 0x16, 0), [2400, 2400, 100, 0]);
    assert_eq!(get(&intel, 0x4000_0010, 0), [2_400_000, 1_000_000, 0, 0]);
    assert_eq!(get(&intel, 0x4000_0000, 0)[0], 0x4000_0010);

    let uneven = Options { tsc_khz: Some(2_794_751), ..OPTIONS };
    let intel = vcpu(&intel_xeon(), &uneven, 0);
    assert_eq!(find(&intel, 0x15, 0), None, "2794751 x 1000000 does not fit 32 bits");
    assert_eq!(get(&intel, 0x16, 0)[0], 2795);

    let amd = vcpu(&amd_turin(), &OPTIONS, 0);
    assert_eq!((find(&amd, 0x15, 0), find(&amd, 0x16, 0)), (None, None));
    assert_eq!(get(&amd, 0x4000_0010, 0), [2_400_000, 1_000_000, 0, 0]);

    let unknown = Options { tsc_khz: None, ..OPTIONS };
    let intel = vcpu(&intel_i5(), &unknown, 0);
    assert_eq!((find(&intel, 0x15, 0), find(&intel, 0x16, 0)), (None, None), "not the host's rate");
    let amd = vcpu(&amd_turin(), &unknown, 0);
    assert_eq!(find(&amd, 0x4000_0010, 0), None);
    assert_eq!(get(&amd, 0x4000_0000, 0)[0], 0x4000_0001, "as KVM gives it");
}

#[test]
fn announces_itself() {
    for supported in ALL {
        assert!(abi::announce::is_jiffy(get(&vcpu(&supported(), &OPTIONS, 0), abi::announce::LEAF, 0)));
    }
}

#[test]
fn what_it_does_not_know_stays() {
    for supported in ALL {
        let cpu = vcpu(&supported(), &OPTIONS, 0);
        for entry in supported() {
            if matches!(entry.function, 0x2 | 0x6 | 0xa | 0xd | 0x12 | 0x14 | 0x8000_0002..=0x8000_0006) {
                assert!(cpu.contains(&entry), "{:#x}.{}", entry.function, entry.index);
            }
        }
    }
}

/// As KVM itself takes them: indices matter only where the flag says so.
fn key_is_unique(entries: &[kvm_cpuid_entry2]) -> bool {
    entries.windows(2).all(|pair| (pair[0].function, pair[0].index) < (pair[1].function, pair[1].index))
}

proptest! {
    #[test]
    fn every_count_is_consistent(set in 0..ALL.len(), cpus in 1u8..=254) {
        let supported = ALL[set]();
        let template = Template::new(&supported, &with(cpus)).expect("a template");
        for apic_id in 0..cpus {
            let cpu = template.for_vcpu(apic_id);
            prop_assert!(key_is_unique(&cpu));
            prop_assert_eq!(get(&cpu, 1, 0)[1] >> 24, u32::from(apic_id));
            for index in 0..3 {
                prop_assert_eq!(get(&cpu, 0xb, index)[3], u32::from(apic_id));
            }
            // The bits below the shift tell the cores of the socket apart; those above are the socket's.
            let [shift, count, ..] = get(&cpu, 0xb, 1);
            prop_assert_eq!(count, u32::from(cpus));
            prop_assert_eq!(u32::from(apic_id) >> shift, 0);
            prop_assert!(1u32 << shift >= count && (1u32 << shift) / 2 < count.max(1));
            if let Some(topology) = find(&cpu, 0x8000_001e, 0) {
                prop_assert_eq!(topology, [u32::from(apic_id), u32::from(apic_id), 0, 0]);
                let [.., sizes, _] = get(&cpu, 0x8000_0008, 0);
                prop_assert_eq!((sizes & 0xff) + 1, count);
                prop_assert_eq!(sizes >> 12 & 0xf, shift);
            }
        }
    }

    #[test]
    fn idempotent_whatever_kvm_gives(
        entries in prop::collection::vec((prop::sample::select(FUNCTIONS), 0u32..4, any::<[u32; 4]>()), 0..60),
        cpus in 1u8..=254,
        tsc_khz in prop::option::of(any::<u32>()),
        tsc_deadline: bool,
    ) {
        let supported: Vec<_> = entries
            .into_iter()
            .map(|(function, index, [eax, ebx, ecx, edx])| {
                kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
            })
            .collect();
        let options = Options { cpus, tsc_deadline, tsc_khz, invtsc: false };
        let once = vcpu(&supported, &options, 0);
        prop_assert!(key_is_unique(&once));
        prop_assert_eq!(vcpu(&once, &options, 0), once);
    }
}

const FUNCTIONS: &[u32] = &[
    0,
    1,
    4,
    5,
    7,
    0xb,
    0x15,
    0x16,
    0x1f,
    0x4000_0000,
    0x4000_0001,
    0x4000_0010,
    0x8000_0000,
    0x8000_0001,
    0x8000_0007,
    0x8000_0008,
    0x8000_001d,
    0x8000_001e,
    0x8000_0026,
];
