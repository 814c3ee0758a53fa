//! One vCPU: how it starts, and why it stops running.
#![allow(unsafe_code, reason = "struct kvm_run is shared with the kernel")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::{
    CpuId, KVM_INTERNAL_ERROR_EMULATION, kvm_dtable, kvm_regs, kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4,
    kvm_segment,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::state::{VcpuState, set_msr};
use super::{Error, Fault, call};
use crate::boot::BootCpu;

/// `CR0.PE`, `CR0.ET`, `CR0.NE`, `CR0.PG` (Intel SDM vol. 3, 2.5).
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
/// `CR4.PAE`.
const CR4_PAE: u64 = 1 << 5;
/// `EFER.LME`, `EFER.LMA`.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS_FIXED: u64 = 1 << 1;
/// `IA32_MTRR_DEF_TYPE`, with its enable bit and the type write-back: RAM is cached unless a guest says otherwise.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Why a vCPU has come back from the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// `in`: the guest waits for the data, in units of `size` bytes.
    PortIn {
        /// Port.
        port: u16,
        /// Bytes a unit.
        size: usize,
        /// What the guest will read; a string instruction has several units.
        data: &'a mut [u8],
    },
    /// `out`, in units of `size` bytes.
    PortOut {
        /// Port.
        port: u16,
        /// Bytes a unit.
        size: usize,
        /// What the guest wrote.
        data: &'a [u8],
    },
    /// A read where there is no memory.
    MmioRead(u64, &'a mut [u8]),
    /// A write where there is no memory.
    MmioWrite(u64, &'a [u8]),
    /// Somebody wanted this vCPU's attention.
    Kicked,
    /// The guest has shut down by a triple fault.
    TripleFault,
    /// KVM could not go on; [`RunVcpu::fault`] says more.
    InternalError {
        /// Whether it met an instruction that it cannot emulate.
        emulation: bool,
    },
    /// The processor refused the guest's state, for this hardware-specific reason.
    FailedEntry(u64),
    /// An exit that we did not ask for.
    Unexpected(String),
}

/// A vCPU that can be run: KVM's, or a fake.
pub trait RunVcpu: Send {
    /// Runs the guest until something is to be done.
    fn run(&mut self) -> Result<Exit<'_>, Error>;

    /// What there is to say about a guest that cannot go on.
    fn fault(&self) -> Option<Box<Fault>>;

    /// The state, when the last exit was [`Exit::Kicked`].
    fn save(&self) -> Result<VcpuState, Error>;

    /// What makes [`RunVcpu::run`] return.
    fn kicker(&mut self) -> Kicker;
}

/// Makes a vCPU return from the guest, or not enter it. Without a thread yet, it does so as soon as it is run.
#[derive(Clone, Debug)]
pub struct Kicker {
    /// `immediate_exit` of the vCPU's `kvm_run`.
    flag: Arc<ImmediateExit>,
}

#[derive(Debug)]
struct ImmediateExit {
    run: *const AtomicU8,
    /// Keeps the memory behind `run`, where that is not a `kvm_run`.
    _own: Option<Box<AtomicU8>>,
}

// SAFETY: the pointer is only ever used for atomic accesses.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl Kicker {
    /// A kicker without a vCPU behind it, for fakes.
    #[must_use]
    pub fn detached() -> Self {
        let own = Box::new(AtomicU8::new(0));
        Self { flag: Arc::new(ImmediateExit { run: &raw const *own, _own: Some(own) }) }
    }

    fn set(&self, value: u8) {
        // SAFETY: `run` points into `_own`, or into the vCPU's `kvm_run` mapping, which lives as long as the vCPU:
        // `kick` takes the handle of the thread that gives the vCPU back when it is joined, and the thread itself
        // has the vCPU.
        unsafe { &*self.flag.run }.store(value, Ordering::SeqCst);
    }

    /// Whether a kick is pending.
    #[must_use]
    pub fn is_set(&self) -> bool {
        // SAFETY: as in `set`.
        unsafe { &*self.flag.run }.load(Ordering::SeqCst) != 0
    }

    /// Called by the vCPU's own thread when it has seen the kick.
    pub fn clear(&self) {
        self.set(0);
    }

    /// Makes the vCPU that `thread` runs come back. The flag closes the gap between a thread's last look and
    /// `KVM_RUN`; the signal brings it out of the guest.
    pub fn kick(&self, thread: &JoinHandle<Box<dyn RunVcpu>>) {
        self.set(1);
        // SAFETY: the handle is not joined, so its thread id is valid; the signal's handler does nothing.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
    }
}

/// A vCPU of KVM's.
#[derive(Debug)]
pub struct Vcpu {
    id: u8,
    fd: VcpuFd,
    run: *const kvm_run,
}

// SAFETY: `run` is the mapping that `fd` owns; nothing about it is bound to a thread.
unsafe impl Send for Vcpu {}

impl AsFd for Vcpu {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `fd` is there.
        unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) }
    }
}

impl Vcpu {
    pub(super) fn new(id: u8, mut fd: VcpuFd) -> Self {
        let run = &raw const *fd.get_kvm_run();
        Self { id, fd, run }
    }

    /// The vCPU's APIC id.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.id
    }

    /// The rate of the guest's TSC in kHz, if KVM knows it.
    #[must_use]
    pub fn tsc_khz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|&khz| khz != 0)
    }

    /// Sets what CPUID says.
    pub fn set_cpuid(&self, cpuid: &CpuId) -> Result<(), Error> {
        self.fd.set_cpuid2(cpuid).map_err(call("KVM_SET_CPUID2"))
    }

    /// Makes RAM write-back for guests that do not set up MTRRs: Linux before 6.2 gives up PAT without them.
    pub fn set_memory_types(&self) -> Result<(), Error> {
        set_msr(&self.fd, MTRR_DEF_TYPE.0, MTRR_DEF_TYPE.1)
    }

    /// Sets how the boot vCPU starts. The FPU and the local APIC are as KVM resets them: FINIT's control words,
    /// and LINT0 open for the PIC.
    pub fn set_boot_state(&self, boot: &BootCpu) -> Result<(), Error> {
        let mut regs = kvm_regs { rflags: RFLAGS_FIXED, ..Default::default() };
        let mut sregs = match boot {
            BootCpu::Reset => return Ok(()),
            BootCpu::Long { .. } | BootCpu::Protected { .. } => {
                self.fd.get_sregs().map_err(call("KVM_GET_SREGS"))?
            }
        };
        let long = matches!(boot, BootCpu::Long { .. });
        sregs.cs = flat(0x10, 0xb, long);
        let data = flat(0x18, 0x3, false);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = kvm_segment { limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
        sregs.idt = kvm_dtable::default();
        sregs.cr0 = CR0_PE | CR0_ET;
        match *boot {
            BootCpu::Long { rip, rsp, cr3, rsi } => {
                (regs.rip, regs.rsp, regs.rsi) = (rip, rsp, rsi);
                sregs.gdt.base = abi::layout::BOOT_GDT.start;
                sregs.gdt.limit = 4 * 8 - 1;
                sregs.cr0 |= CR0_PG;
                sregs.cr3 = cr3;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
            }
            BootCpu::Protected { eip, ebx } => (regs.rip, regs.rbx) = (eip.into(), ebx.into()),
            BootCpu::Reset => {}
        }
        self.fd.set_sregs(&sregs).map_err(call("KVM_SET_SREGS"))?;
        self.fd.set_regs(&regs).map_err(call("KVM_SET_REGS"))
    }

    /// Takes back what [`RunVcpu::save`] gave.
    pub fn restore(&self, state: &VcpuState) -> Result<(), Error> {
        state.restore(&self.fd)
    }
}

/// A segment that covers all of the 32-bit address space, or all of memory in 64-bit mode.
fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        selector,
        limit: u32::MAX,
        type_,
        present: 1,
        s: 1,
        g: 1,
        db: u8::from(!long),
        l: u8::from(long),
        ..Default::default()
    }
}

impl RunVcpu for Vcpu {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        let run = self.run;
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => Ok(Exit::PortIn { port, size: io_size(run), data }),
            Ok(VcpuExit::IoOut(port, data)) => Ok(Exit::PortOut { port, size: io_size(run), data }),
            Ok(VcpuExit::MmioRead(addr, data)) => Ok(Exit::MmioRead(addr, data)),
            Ok(VcpuExit::MmioWrite(addr, data)) => Ok(Exit::MmioWrite(addr, data)),
            Ok(VcpuExit::Intr) => Ok(Exit::Kicked),
            Ok(VcpuExit::Shutdown) => Ok(Exit::TripleFault),
            Ok(VcpuExit::InternalError) => Ok(Exit::InternalError { emulation: is_emulation_failure(run) }),
            Ok(VcpuExit::FailEntry(reason, _)) => Ok(Exit::FailedEntry(reason)),
            Ok(other) => Ok(Exit::Unexpected(format!("{other:?}"))),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => Ok(Exit::Kicked),
            Err(e) => Err(call("KVM_RUN")(e)),
        }
    }

    fn fault(&self) -> Option<Box<Fault>> {
        Fault::read(&self.fd).map(Box::new)
    }

    fn save(&self) -> Result<VcpuState, Error> {
        VcpuState::save(&self.fd)
    }

    fn kicker(&mut self) -> Kicker {
        // SAFETY: the field is inside the mapping that `fd` owns.
        let run = unsafe { &raw const (*self.run).immediate_exit }.cast();
        Kicker { flag: Arc::new(ImmediateExit { run, _own: None }) }
    }
}

/// Bytes a unit of the port access that `run` reports. kvm-ioctls gives the data of all units in one.
fn io_size(run: *const kvm_run) -> usize {
    // SAFETY: the mapping lives as long as the vCPU; a place in it is named, not read.
    let exit = unsafe { &raw const (*run).__bindgen_anon_1 };
    // SAFETY: the kernel writes this part of the mapping only within KVM_RUN, and for KVM_EXIT_IO it is this member of
    // the union that it has filled in. Another thread may set `immediate_exit`, so there is no reference to the whole.
    let io = unsafe { exit.cast::<kvm_run__bindgen_ty_1__bindgen_ty_4>().read() };
    usize::from(io.size).max(1)
}

fn is_emulation_failure(run: *const kvm_run) -> bool {
    // SAFETY: as in `io_size`.
    let exit = unsafe { &raw const (*run).__bindgen_anon_1 };
    // SAFETY: as in `io_size`; for KVM_EXIT_INTERNAL_ERROR the union begins with the sub-error.
    let suberror = unsafe { exit.cast::<u32>().read() };
    suberror == KVM_INTERNAL_ERROR_EMULATION
}
