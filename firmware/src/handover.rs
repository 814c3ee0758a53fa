//! The processor's state when a payload begins: what loaders return, and what the ROM's last instructions make true.

/// How a payload is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging: CR0 = PE and ET, CR4 = 0, EFER = 0, flat segments, interrupts off. All
    /// other general registers are 0.
    Protected {
        /// Where.
        eip: u32,
        /// EAX.
        eax: u32,
        /// EBX.
        ebx: u32,
        /// ESI.
        esi: u32,
    },
    /// 64-bit mode, with the first 4 GiB mapped to themselves: as in [`abi::unikernel`]. All other general registers
    /// are 0.
    Long {
        /// Where.
        rip: u64,
        /// RDI.
        rdi: u64,
        /// RSI.
        rsi: u64,
        /// RSP, whose memory may be written.
        rsp: u64,
    },
    /// Real mode: CR0 = ET. All other general registers are 0.
    Real {
        /// CS.
        cs: u16,
        /// IP.
        ip: u16,
        /// DS, ES, FS, GS and SS.
        ds: u16,
        /// SP.
        sp: u16,
    },
}
