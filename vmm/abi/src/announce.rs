//! How a guest learns that it runs under Jiffy: a CPUID leaf in the hypervisor range, beside KVM's own at
//! 0x4000_0000. A guest may execute it in ring 3, before anything is mounted or mapped.
//!
//! | register | value |
//! |-|-|
//! | EAX | [`VERSION`] |
//! | EBX, ECX, EDX | [`SIGNATURE`], little-endian, four bytes each |

/// The leaf. Linux and others look for known signatures at multiples of 0x100 and pass over ours.
pub const LEAF: u32 = 0x4000_0100;
/// What EBX, ECX and EDX spell.
pub const SIGNATURE: [u8; 12] = *b"JiffyJiffy\0\0";
/// Version of the contract in this package: the ports of [`crate::ports::JIFFY`] are there as described.
pub const VERSION: u32 = 1;

/// The registers EAX, EBX, ECX, EDX of [`LEAF`].
#[must_use]
pub const fn registers() -> [u32; 4] {
    let s = SIGNATURE;
    [
        VERSION,
        u32::from_le_bytes([s[0], s[1], s[2], s[3]]),
        u32::from_le_bytes([s[4], s[5], s[6], s[7]]),
        u32::from_le_bytes([s[8], s[9], s[10], s[11]]),
    ]
}

/// Whether what CPUID gave for [`LEAF`] is ours, of a version that this code knows.
#[must_use]
pub const fn is_jiffy(regs: [u32; 4]) -> bool {
    let ours = registers();
    regs[0] == ours[0] && regs[1] == ours[1] && regs[2] == ours[2] && regs[3] == ours[3]
}
