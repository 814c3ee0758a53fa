//! What this host's KVM can do, found out by running a guest.

use std::arch::x86_64::__cpuid;

use abi::layout::Range;
use serde::Serialize;

use super::{Error, Exit, Host, RunVcpu};
use crate::boot::BootCpu;
use crate::config::{HugePages, MemorySpec};
use crate::memory::Memory;
use crate::memory::layout::RamLayout;

/// How much of a processor this host's KVM gives to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Guests run on the processor: everything works.
    Hardware,
    /// Each instruction is emulated in software: tiny guests run, Linux does not.
    Software,
    /// No guest runs.
    None,
}

/// Whether the processor says that it has virtualisation: VMX (leaf 1, ECX bit 5) or SVM (leaf 0x8000_0001, ECX
/// bit 2). KVM without either emulates its guests.
#[must_use]
pub fn has_hardware_hint() -> bool {
    let (vmx, svm) = (__cpuid(1).ecx >> 5 & 1, __cpuid(0x8000_0001).ecx >> 2 & 1);
    vmx | svm == 1
}

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x4000;
/// `mov rax, cr4; or rax, CR4.OSFXSR; mov cr4, rax; xorps xmm0, xmm0; out 0xf4, al`
const GUEST: [u8; 15] =
    [0x0f, 0x20, 0xe0, 0x48, 0x0d, 0x00, 0x02, 0x00, 0x00, 0x0f, 0x22, 0xe0, 0x0f, 0x57, 0xc0];
const DONE: [u8; 2] = [0xe6, abi::ports::DEBUG_EXIT as u8];

/// What a trial showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// How much there is.
    pub level: Level,
    /// Why it is not more.
    pub reason: Option<String>,
}

impl Probe {
    /// Runs a 64-bit guest that executes one SSE instruction.
    #[must_use]
    pub fn run() -> Self {
        match run() {
            Ok(Level::Software) => {
                let reason = "this KVM emulates each instruction in software and knows only a part of them";
                Self { level: Level::Software, reason: Some(reason.to_owned()) }
            }
            Ok(level) => Self { level, reason: None },
            Err(reason) => Self { level: Level::None, reason: Some(reason) },
        }
    }

    /// For people, or as JSON.
    #[must_use]
    pub fn describe(&self, json: bool) -> String {
        if json {
            // A struct of two plain fields always serialises.
            return format!("{}\n", serde_json::to_string(self).unwrap_or_default());
        }
        let text = match self.level {
            Level::Hardware => "KVM: hardware: every guest runs",
            Level::Software => "KVM: software: tiny guests run, Linux does not",
            Level::None => "KVM: none: no guest runs",
        };
        self.reason.as_ref().map_or_else(|| format!("{text}\n"), |reason| format!("{text}\n  {reason}\n"))
    }
}

fn run() -> Result<Level, String> {
    let text = |e: Error| e.to_string();
    let host = Host::open().map_err(text)?;
    let spec = MemorySpec { size: 2 << 20, huge: HugePages::Default, prealloc: false, shared: false };
    let memory = Memory::new(&spec, &RamLayout::new(spec.size)).map_err(|e| e.to_string())?;
    // Present and writable; the directory's entry is a 2 MiB page.
    let entries = [(PML4, PDPT | 3), (PDPT, PD | 3), (PD, 0x83)];
    let mut writes: Vec<_> = entries.iter().map(|(at, entry)| (*at, entry.to_le_bytes().to_vec())).collect();
    writes.push((CODE, [&GUEST[..], &DONE].concat()));
    for (at, bytes) in writes {
        memory.write(at, &bytes).map_err(|e| e.to_string())?;
    }
    let vm = host.create_vm().map_err(text)?;
    for slot in memory.slots() {
        debug_assert_eq!(slot.range, Range { start: 0, len: spec.size });
        #[allow(unsafe_code, reason = "KVM reads and writes the process memory that a slot names")]
        // SAFETY: `memory` is dropped after `vm` and `vcpu`, which were made after it.
        unsafe { vm.set_memory(0, &slot, false) }.map_err(text)?;
    }
    let mut vcpu = vm.create_vcpu(0).map_err(text)?;
    vcpu.set_boot_state(&BootCpu::Long { rip: CODE, rsp: 0x8000, cr3: PML4, rsi: 0 }).map_err(text)?;
    match vcpu.run().map_err(text)? {
        Exit::PortOut { .. } => Ok(Level::Hardware),
        Exit::InternalError { emulation: true } => Ok(Level::Software),
        other => Err(format!("a trial guest ended in {other:?}")),
    }
}
