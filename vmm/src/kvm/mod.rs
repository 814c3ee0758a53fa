//! All of KVM's ioctls, behind types that say what may happen.

mod coalesced;
mod fault;
mod probe;
mod routing;
mod state;
mod vcpu;
mod vm;

use std::path::Path;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

pub use coalesced::Acknowledged;
pub use fault::{Fault, Registers};
pub use probe::{Level, Probe, has_hardware_hint};
pub use state::{IrqchipState, VcpuState};
pub use vcpu::{Exit, Kicker, RunVcpu, Vcpu};
pub use vm::Vm;

/// KVM that is not there, or refused a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such device.
    #[error(
        "/dev/kvm: not there: virtualisation is off in the firmware, or the module is not loaded (`sudo modprobe kvm_intel` or `kvm_amd`)"
    )]
    Absent,
    /// The device is there, and this user may not open it.
    #[error("/dev/kvm: permission denied (`sudo usermod -aG kvm $USER`, then log in again)")]
    Denied,
    /// The device could not be opened for another reason.
    #[error("/dev/kvm: {0}")]
    Open(kvm_ioctls::Error),
    /// A KVM of another age.
    #[error("/dev/kvm: API version {0}; this build needs 12")]
    ApiVersion(i32),
    /// More vCPUs than this KVM can give to one VM.
    #[error("--cpus {wanted}: this host's KVM allows at most {most}")]
    TooManyCpus {
        /// What was asked for.
        wanted: u8,
        /// What there is.
        most: usize,
    },
    /// KVM has limits of its own for a piece of memory: 8 TiB, and what it can allocate to keep track of it.
    #[error(
        "guest memory: this host's KVM does not take {len} bytes at {start:#x}: {source}: give less --memory"
    )]
    Memory {
        /// Guest-physical address.
        start: u64,
        /// Length in bytes.
        len: u64,
        /// What the kernel said.
        source: kvm_ioctls::Error,
    },
    /// A descriptor to signal by could not be had.
    #[error("eventfd: {0}")]
    Descriptor(std::io::Error),
    /// A call failed.
    #[error("KVM: {call}: {source}")]
    Call {
        /// Name of the ioctl.
        call: &'static str,
        /// What the kernel said.
        source: kvm_ioctls::Error,
    },
}

/// Names the ioctl that failed.
fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |source| Error::Call { call, source }
}

/// The open KVM device.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
}

impl Host {
    /// Opens `/dev/kvm`.
    pub fn open() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|e| match e.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::Absent,
            libc::EACCES | libc::EPERM if Path::new("/dev/kvm").exists() => Error::Denied,
            _ => Error::Open(e),
        })?;
        match kvm.get_api_version() {
            version if version == KVM_API_VERSION as i32 => Ok(Self { kvm }),
            version => Err(Error::ApiVersion(version)),
        }
    }

    /// An empty VM.
    pub fn create_vm(&self) -> Result<Vm, Error> {
        loop {
            match self.kvm.create_vm() {
                // A signal during the wait for the kernel's worker thread; nothing was made.
                Err(e) if e.errno() == libc::EINTR => {}
                made => return Ok(Vm::new(made.map_err(call("KVM_CREATE_VM"))?)),
            }
        }
    }

    /// What CPUID could say in a guest of this host.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Whether local APIC timers can run in TSC-deadline mode (KVM does not say so in CPUID before Linux 6.9).
    #[must_use]
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// Checks that a VM may have `wanted` vCPUs.
    pub fn check_cpus(&self, wanted: u8) -> Result<(), Error> {
        if wanted == 1 {
            return Ok(());
        }
        let most = self.kvm.get_max_vcpus();
        if usize::from(wanted) <= most { Ok(()) } else { Err(Error::TooManyCpus { wanted, most }) }
    }
}
