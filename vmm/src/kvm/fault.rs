//! What there is to say about a guest that cannot go on: registers, and the instruction it stopped at.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use serde::Serialize;

/// The longest instruction (Intel SDM vol. 2, 2.3.11).
const MAX_INSTRUCTION: usize = 15;

/// General and control registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each field is the register of its name")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cs: u16,
    pub ss: u16,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// Where and in which state a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The registers.
    pub registers: Registers,
    /// Guest-physical address of the instruction, if it is mapped.
    pub physical: Option<u64>,
    /// Width of the code: 16, 32 or 64.
    pub bits: u32,
    /// The instruction's bytes in hexadecimal and its name, once [`Fault::decode`] has seen them.
    pub instruction: Option<String>,
    /// The processor does not keep the registers of a shutdown (AMD): these are the ones after INIT.
    pub reset: bool,
}

impl Fault {
    pub(super) fn read(fd: &VcpuFd) -> Option<Self> {
        let (regs, sregs) = (fd.get_regs().ok()?, fd.get_sregs().ok()?);
        let linear = sregs.cs.base.wrapping_add(regs.rip);
        let physical = fd.translate_gva(linear).ok().filter(|t| t.valid != 0).map(|t| t.physical_address);
        Some(Self::new(&regs, &sregs, physical))
    }

    fn new(regs: &kvm_regs, sregs: &kvm_sregs, physical: Option<u64>) -> Self {
        let bits = match (sregs.cs.l, sregs.cs.db) {
            (0, 0) => 16,
            (0, _) => 32,
            _ => 64,
        };
        let registers = Registers {
            rax: regs.rax,
            rbx: regs.rbx,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rsi: regs.rsi,
            rdi: regs.rdi,
            rsp: regs.rsp,
            rbp: regs.rbp,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rip: regs.rip,
            rflags: regs.rflags,
            cs: sregs.cs.selector,
            ss: sregs.ss.selector,
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
        };
        let reset = sregs.cs.base == 0xffff_0000 && regs.rip == 0xfff0;
        Self { registers, physical, bits, instruction: None, reset }
    }

    /// Decodes the instruction; `read` fills its buffer from guest-physical memory, or says that there is none.
    pub fn decode(&mut self, read: impl Fn(u64, &mut [u8]) -> bool) {
        let Some(at) = self.physical.filter(|_| !self.reset) else { return };
        // Shorter reads where the page, and with it what we know of the mapping, ends before the longest one.
        let room = MAX_INSTRUCTION.min(0x1000 - (at & 0xfff) as usize);
        let mut bytes = [0; MAX_INSTRUCTION];
        if !read(at, &mut bytes[..room]) {
            return;
        }
        let mut decoder =
            Decoder::with_ip(self.bits, &bytes[..room], self.registers.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let len = instruction.len().clamp(1, room);
        let hex: Vec<_> = bytes[..len].iter().map(|b| format!("{b:02x}")).collect();
        let mut text = format!("{}: ", hex.join(" "));
        if instruction.is_invalid() {
            text.push_str("not an instruction that the decoder knows");
        } else {
            FastFormatter::new().format(&instruction, &mut text);
        }
        self.instruction = Some(text);
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reset {
            return write!(f, "the processor does not keep the registers of a shutdown");
        }
        let r = &self.registers;
        write!(f, "at {:#x}", r.rip)?;
        if let Some(instruction) = &self.instruction {
            write!(f, " ({instruction})")?;
        }
        let rows = [
            [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)],
            [("rsi", r.rsi), ("rdi", r.rdi), ("rsp", r.rsp), ("rbp", r.rbp)],
            [("r8 ", r.r8), ("r9 ", r.r9), ("r10", r.r10), ("r11", r.r11)],
            [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)],
            [("cr0", r.cr0), ("cr2", r.cr2), ("cr3", r.cr3), ("cr4", r.cr4)],
            [("cs ", r.cs.into()), ("ss ", r.ss.into()), ("efl", r.rflags), ("efr", r.efer)],
        ];
        for row in rows {
            write!(f, "\n ")?;
            for (name, value) in row {
                write!(f, " {name} {value:016x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(bits: u32, physical: u64) -> Fault {
        Fault {
            registers: Registers::default(),
            physical: Some(physical),
            bits,
            instruction: None,
            reset: false,
        }
    }

    #[test]
    fn names_the_instruction() {
        let mut f = fault(64, 0x1000);
        f.decode(|_, buf| {
            buf[..3].copy_from_slice(&[0x0f, 0x57, 0xc0]);
            true
        });
        assert_eq!(f.instruction.as_deref(), Some("0f 57 c0: xorps xmm0,xmm0"));
        assert!(f.to_string().starts_with("at 0x0 (0f 57 c0: xorps xmm0,xmm0)\n  rax"));
    }

    proptest! {
        #[test]
        fn any_bytes_decode(bytes in prop::array::uniform15(any::<u8>()), at in any::<u64>(), bits in 0usize..3) {
            let mut f = fault([16, 32, 64][bits], at);
            f.decode(|_, buf| { buf.copy_from_slice(&bytes[..buf.len()]); true });
            prop_assert!(f.instruction.is_some());
        }
    }
}
