//! Saved state of what lives in the kernel: vCPUs, interrupt controllers, timer, clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data, kvm_debugregs,
    kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::{Error, call};
use crate::state::Saved;

/// MSRs that a guest can have changed and that no other ioctl carries; those that a CPU lacks are left out when
/// saving (Linux `Documentation/virt/kvm/api.rst`, `KVM_GET_MSRS`, stops at the first that it does not know).
const MSRS: [u32; 24] = [
    0x10,        // IA32_TSC
    0x3b,        // IA32_TSC_ADJUST
    0x174,       // IA32_SYSENTER_CS
    0x175,       // IA32_SYSENTER_ESP
    0x176,       // IA32_SYSENTER_EIP
    0x1a0,       // IA32_MISC_ENABLE
    0x277,       // IA32_PAT
    0x2ff,       // IA32_MTRR_DEF_TYPE
    0x48,        // IA32_SPEC_CTRL
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SYSCALL_MASK
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
    0xc001_011f, // AMD64_VIRT_SPEC_CTRL
    0x4b56_4d00, // MSR_KVM_WALL_CLOCK_NEW
    0x4b56_4d01, // MSR_KVM_SYSTEM_TIME_NEW
    0x4b56_4d02, // MSR_KVM_ASYNC_PF_EN
    0x4b56_4d03, // MSR_KVM_STEAL_TIME
    0x4b56_4d04, // MSR_KVM_PV_EOI_EN
    0x4b56_4d05, // MSR_KVM_POLL_CONTROL
    0x4b56_4d06, // MSR_KVM_ASYNC_PF_INT
    0x6e0,       // IA32_TSC_DEADLINE, after the local APIC and the TSC
];

/// One vCPU.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    mp: kvm_mp_state,
    events: kvm_vcpu_events,
    msrs: Vec<kvm_msr_entry>,
}

impl Saved for VcpuState {
    const NAME: &'static str = "vCPU";
    const VERSION: u16 = 1;
}

impl VcpuState {
    /// The state of a vCPU that is not in `KVM_RUN`, with no exit half done.
    pub(super) fn save(fd: &VcpuFd) -> Result<Self, Error> {
        Ok(Self {
            // First: reading it makes KVM settle what a pending INIT or SIPI does to the other parts.
            mp: fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?,
            regs: fd.get_regs().map_err(call("KVM_GET_REGS"))?,
            sregs: fd.get_sregs().map_err(call("KVM_GET_SREGS"))?,
            xsave: fd.get_xsave().map_err(call("KVM_GET_XSAVE"))?,
            xcrs: fd.get_xcrs().map_err(call("KVM_GET_XCRS"))?,
            debug: fd.get_debug_regs().map_err(call("KVM_GET_DEBUGREGS"))?,
            lapic: fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?,
            msrs: MSRS.into_iter().filter_map(|index| get_msr(fd, index)).collect(),
            events: fd.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Gives a fresh vCPU this state. CPUID has to be set before.
    pub(super) fn restore(&self, fd: &VcpuFd) -> Result<(), Error> {
        let Self { regs, sregs, xsave, xcrs, debug, lapic, mp, events, msrs } = self;
        fd.set_mp_state(*mp).map_err(call("KVM_SET_MP_STATE"))?;
        fd.set_regs(regs).map_err(call("KVM_SET_REGS"))?;
        fd.set_sregs(sregs).map_err(call("KVM_SET_SREGS"))?;
        set_xsave(fd, xsave)?;
        fd.set_xcrs(xcrs).map_err(call("KVM_SET_XCRS"))?;
        fd.set_debug_regs(debug).map_err(call("KVM_SET_DEBUGREGS"))?;
        fd.set_lapic(lapic).map_err(call("KVM_SET_LAPIC"))?;
        for msr in msrs {
            set_msr(fd, msr.index, msr.data)?;
        }
        fd.set_vcpu_events(events).map_err(call("KVM_SET_VCPU_EVENTS"))
    }
}

#[allow(unsafe_code, reason = "KVM_SET_XSAVE reads as much as the vCPU's features say")]
fn set_xsave(fd: &VcpuFd, xsave: &kvm_xsave) -> Result<(), Error> {
    // SAFETY: features whose state is larger than the 4 KiB of `kvm_xsave` have to be asked for with
    // arch_prctl, which we never do.
    unsafe { fd.set_xsave(xsave) }.map_err(call("KVM_SET_XSAVE"))
}

fn get_msr(fd: &VcpuFd, index: u32) -> Option<kvm_msr_entry> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).ok()?;
    (fd.get_msrs(&mut msrs).ok()? == 1).then(|| msrs.as_slice()[0])
}

/// Sets one MSR, and names it when KVM refuses.
pub(super) fn set_msr(fd: &VcpuFd, index: u32, data: u64) -> Result<(), Error> {
    let refused = || Error::Call { call: "KVM_SET_MSRS", source: kvm_ioctls::Error::new(libc::EINVAL) };
    let entry = kvm_msr_entry { index, data, ..Default::default() };
    let msrs = Msrs::from_entries(&[entry]).map_err(|_| refused())?;
    match fd.set_msrs(&msrs).map_err(call("KVM_SET_MSRS"))? {
        1 => Ok(()),
        _ => Err(refused()),
    }
}

/// PIC, IOAPIC, PIT and kvmclock.
#[derive(Clone, Serialize, Deserialize)]
pub struct IrqchipState {
    chips: Vec<kvm_irqchip>,
    pit: Option<kvm_pit_state2>,
    clock: kvm_clock_data,
}

impl Saved for IrqchipState {
    const NAME: &'static str = "interrupt controllers";
    const VERSION: u16 = 1;
}

impl IrqchipState {
    pub(super) fn save(fd: &VmFd, pit: bool) -> Result<Self, Error> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            fd.get_irqchip(&mut chip).map(|()| chip).map_err(call("KVM_GET_IRQCHIP"))
        };
        Ok(Self {
            chips: [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
                .into_iter()
                .map(chip)
                .collect::<Result<_, _>>()?,
            pit: pit.then(|| fd.get_pit2().map_err(call("KVM_GET_PIT2"))).transpose()?,
            clock: fd.get_clock().map_err(call("KVM_GET_CLOCK"))?,
        })
    }

    pub(super) fn restore(&self, fd: &VmFd) -> Result<(), Error> {
        let Self { chips, pit, clock } = self;
        for chip in chips {
            fd.set_irqchip(chip).map_err(call("KVM_SET_IRQCHIP"))?;
        }
        if let Some(pit) = pit {
            fd.set_pit2(pit).map_err(call("KVM_SET_PIT2"))?;
        }
        // KVM reports flags that it refuses to be given.
        fd.set_clock(&kvm_clock_data { flags: 0, ..*clock }).map_err(call("KVM_SET_CLOCK"))
    }
}
