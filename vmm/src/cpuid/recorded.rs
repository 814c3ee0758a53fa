//! CPUID sets that were recorded, as facts to test against; each file says where it comes from.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

pub(super) const ALL: [fn() -> Vec<kvm_cpuid_entry2>; 3] = [amd_turin, intel_i5, intel_xeon];

pub(super) fn amd_turin() -> Vec<kvm_cpuid_entry2> {
    parse(include_str!("recorded/amd-turin-kvm.txt"))
}

pub(super) fn intel_i5() -> Vec<kvm_cpuid_entry2> {
    parse(include_str!("recorded/intel-i5-bare.txt"))
}

pub(super) fn intel_xeon() -> Vec<kvm_cpuid_entry2> {
    parse(include_str!("recorded/intel-xeon-kvm.txt"))
}

fn parse(text: &str) -> Vec<kvm_cpuid_entry2> {
    let indexed = |function| matches!(function, 4 | 7 | 0xb | 0xd | 0x12 | 0x14 | 0x8000_001d);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let words: Vec<u32> =
                line.split(' ').map(|word| u32::from_str_radix(word, 16).expect(line)).collect();
            let [function, index, eax, ebx, ecx, edx] = words[..] else { panic!("six words: {line}") };
            let flags = if indexed(function) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
            kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
        })
        .collect()
}
