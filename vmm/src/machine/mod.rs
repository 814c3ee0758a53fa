//! From a specification, memory and a start to a machine that can run: the one place where all parts meet.

mod devices;
mod firmware;
mod rom;
mod virtio;

use std::sync::Arc;

use abi::layout;
use kvm_bindings::CpuId;
use serde::{Deserialize, Serialize};

use crate::boot::firmware::FileError;
use crate::boot::{BootCpu, BootState};
use crate::config::{MachineKind, VmSpec};
use crate::cpuid;
use crate::devices::console::ConsoleOutput;
use crate::devices::legacy::FwCfg;
use crate::devices::virtio::ConsoleInput;
use crate::kvm::{self, Host, IrqchipState, Vcpu, VcpuState, Vm};
use crate::memory::{self, HUGE_PAGE, Mapping, Memory};
use crate::resources::{Exhausted, Resources};
use crate::state::{self, Saved};
use crate::timeline::Timeline;
use crate::vcpu::Buses;
use crate::{acpi, bus};
pub use devices::Devices;
pub use firmware::Firmware;
use rom::Rom;
use virtio::VirtioDevices;
pub use virtio::{Attachment, cmdline};

/// A machine that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Guest memory could not be had or written.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// Saved state could not be taken back.
    #[error(transparent)]
    State(#[from] state::Error),
    /// Saved state of another machine.
    #[error("saved state has {saved} vCPUs, the machine {wanted}")]
    Vcpus {
        /// In the state.
        saved: usize,
        /// In the specification.
        wanted: usize,
    },
    /// No CPUID for this guest.
    #[error(transparent)]
    Cpuid(#[from] cpuid::Error),
    /// No ACPI tables for this guest.
    #[error(transparent)]
    Acpi(#[from] acpi::Error),
    /// Two devices at one place.
    #[error(transparent)]
    Bus(#[from] bus::Overlap),
    /// fw_cfg cannot have a file.
    #[error("firmware's file {name}: {problem}")]
    FirmwareFile {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        problem: FileError,
    },
    /// The command line can only name interrupts that the kernel knows beforehand.
    #[error(
        "transport mmio-cmdline: a fast machine has no ISA interrupts, so Linux cannot use a device that its command line names: add --machine legacy, or take mmio"
    )]
    NoIsaLines,
    /// Too many of something.
    #[error(transparent)]
    Resources(#[from] Exhausted),
    /// A descriptor could not be made.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// How a machine begins. Memory has its contents already: what [`load`] put there, or what was saved.
#[derive(Debug)]
pub enum Start {
    /// It boots.
    Boot {
        /// How the boot vCPU starts.
        cpu: BootCpu,
        /// The firmware it starts in, if it does.
        firmware: Option<Firmware>,
    },
    /// It goes on where another one was saved.
    Restore {
        /// What was saved.
        state: Box<MachineState>,
        /// The firmware it had.
        firmware: Option<Firmware>,
    },
}

/// Puts what a loader made into memory.
pub fn load(boot: BootState, memory: &Memory) -> Result<Start, Error> {
    // A kernel takes all of the first huge page soon; one fault is cheaper than one for each of its small pages.
    if boot.loaded_bytes < HUGE_PAGE as u64 {
        memory.keep_start_small()?;
    }
    for write in &boot.writes {
        memory.fill(write.addr, write.len(), |slice| write.place(slice))?;
    }
    if boot.firmware.is_some() {
        memory.populate(&abi::firmware::TOUCHED);
    }
    let firmware = boot.firmware.map(|it| Firmware::load(it, memory)).transpose()?;
    Ok(Start::Boot { cpu: boot.cpu, firmware })
}

/// What a machine is connected to.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Where the serial port writes.
    pub console: ConsoleOutput,
    /// Where what is typed waits for a virtio console, if that carries the console.
    pub input: Option<Arc<ConsoleInput>>,
    /// Where guest marks go.
    pub timeline: Arc<Timeline>,
}

/// All of a machine but its memory, in the encoding of [`crate::state`].
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    vcpus: Vec<Vec<u8>>,
    irqchip: Vec<u8>,
    devices: Vec<(String, Vec<u8>)>,
    resources: Resources,
    is_linux: bool,
}

impl Saved for MachineState {
    const NAME: &'static str = "machine";
    const VERSION: u16 = 2;
}

/// A machine, built and not yet running. Its fields are dropped in their order: KVM lets go of the memory before
/// it is unmapped.
pub struct Machine {
    /// The vCPUs, the boot vCPU first.
    pub vcpus: Vec<Vcpu>,
    /// The rest.
    pub board: Board,
}

/// Everything of a machine that vCPUs share.
pub struct Board {
    /// What the guest can reach.
    pub buses: Arc<Buses>,
    /// The devices that others have to do with.
    pub devices: Devices,
    vm: Vm,
    kind: MachineKind,
    resources: Resources,
    /// It was entered by Linux's own protocol.
    is_linux: bool,
    _rom: Option<Rom>,
    _device_memory: Vec<Arc<Mapping>>,
    memory: Memory,
}

/// Builds a machine. Boot, restore, incoming migration and clone are the callers.
pub fn build(
    host: &Host,
    spec: &VmSpec,
    memory: Memory,
    mut start: Start,
    wiring: &Wiring,
    attachments: Vec<Attachment>,
) -> Result<Machine, Error> {
    host.check_cpus(spec.cpus)?;
    let vm = host.create_vm()?;
    let mut resources = Resources::new()?;
    for slot in memory.slots() {
        let id = resources.memory_slot()?;
        #[allow(unsafe_code, reason = "KVM reads and writes the process memory that a slot names")]
        // SAFETY: the machine owns `memory` and drops it after the VM and the vCPUs.
        unsafe { vm.set_memory(id, &slot, false) }?;
    }
    let (Start::Boot { firmware, .. } | Start::Restore { firmware, .. }) = &mut start;
    let firmware = firmware.take();
    if let Some(firmware) = &firmware {
        let id = resources.memory_slot()?;
        #[allow(unsafe_code, reason = "as above")]
        // SAFETY: as above, for the ROM.
        unsafe { vm.set_memory(id, &firmware.slot(), true) }?;
    }
    vm.set_private_pages()?;
    let is_linux = match &start {
        Start::Boot { cpu, .. } => matches!(cpu, BootCpu::Long { .. }),
        Start::Restore { state, .. } => state.is_linux,
    };
    let (virtio, device_memory) = VirtioDevices::attach(attachments, &vm, &memory, &mut resources, is_linux)?;
    // After all memory slots: what it registers has KVM wait for milliseconds with the next slot (Linux 6.18).
    vm.create_irqchip()?;
    if spec.machine == MachineKind::Legacy {
        vm.create_pit()?;
    }
    let mut devices = Devices::new(spec, &vm, wiring, virtio)?;
    let mut rom = None;
    if let Some(firmware) = firmware {
        let (image, contents) = firmware.describe(spec, &devices)?;
        devices.add_firmware(FwCfg::new(contents, memory.clone()));
        rom = Some(image);
    }
    let vcpus = create_vcpus(host, spec, &vm)?;
    if devices.acknowledge_late() {
        vm.map_coalesced(&vcpus[0]);
    }
    match start {
        Start::Boot { cpu, .. } => {
            // A firmware has their place for itself, and makes its own.
            if cpu != BootCpu::Reset {
                describe(&memory, spec, &devices)?;
            }
            vcpus[0].set_boot_state(&cpu)?;
        }
        Start::Restore { state: saved, .. } => {
            if saved.vcpus.len() != vcpus.len() {
                return Err(Error::Vcpus { saved: saved.vcpus.len(), wanted: vcpus.len() });
            }
            for (vcpu, bytes) in vcpus.iter().zip(&saved.vcpus) {
                vcpu.restore(&state::decode::<VcpuState>(bytes)?)?;
            }
            vm.restore_irqchip(&state::decode::<IrqchipState>(&saved.irqchip)?)?;
            devices.restore(&saved.devices)?;
            resources = saved.resources;
        }
    }
    let buses = Arc::new(devices.buses()?);
    let board = Board {
        buses,
        devices,
        vm,
        kind: spec.machine,
        resources,
        is_linux,
        _rom: rom,
        _device_memory: device_memory,
        memory,
    };
    Ok(Machine { vcpus, board })
}

fn create_vcpus(host: &Host, spec: &VmSpec, vm: &Vm) -> Result<Vec<Vcpu>, Error> {
    #[cfg(feature = "planted")]
    abi::planted::spin();
    let vcpus = (0..spec.cpus).map(|id| vm.create_vcpu(id)).collect::<Result<Vec<_>, _>>()?;
    let options = cpuid::Options {
        cpus: spec.cpus,
        tsc_deadline: host.has_tsc_deadline(),
        tsc_khz: vcpus[0].tsc_khz(),
        invtsc: spec.invtsc,
    };
    let template = cpuid::Template::new(host.supported_cpuid()?.as_slice(), &options)?;
    for vcpu in &vcpus {
        let entries = template.for_vcpu(vcpu.id());
        let cpuid =
            CpuId::from_entries(&entries).map_err(|e| std::io::Error::other(format!("CPUID: {e:?}")))?;
        vcpu.set_cpuid(&cpuid)?;
        vcpu.set_memory_types()?;
    }
    Ok(vcpus)
}

/// Writes the ACPI tables.
fn describe(memory: &Memory, spec: &VmSpec, devices: &Devices) -> Result<(), Error> {
    let tables = acpi::build(&acpi::Spec {
        cpus: spec.cpus,
        machine: spec.machine,
        pci: devices.has_pci(),
        devices: &devices.aml(),
    })?;
    Ok(memory.write(layout::ACPI.start, &tables)?)
}

impl Board {
    /// The state of all but the vCPUs, which tell their own; everything has to be paused.
    pub fn save(&self, vcpus: &[VcpuState]) -> Result<MachineState, Error> {
        let Self { buses: _, devices, vm, kind, resources, is_linux, _rom: _, _device_memory: _, memory: _ } =
            self;
        Ok(MachineState {
            vcpus: vcpus.iter().map(state::encode).collect(),
            irqchip: state::encode(&vm.save_irqchip(*kind == MachineKind::Legacy)?),
            devices: devices.save(),
            resources: state::decode(&state::encode(resources))?,
            is_linux: *is_linux,
        })
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}
