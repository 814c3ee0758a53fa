//! Virtio devices at their transports.

use std::fmt;
use std::sync::Arc;

use abi::layout::Range;

use super::Error;
use crate::acpi::VirtioMmio;
use crate::bus::BusDevice;
use crate::config::TransportKind;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::transport::Core;
use crate::devices::virtio::transport::mmio::{Mmio, WINDOW};
use crate::interrupt::IrqfdLine;
use crate::kvm::Vm;
use crate::memory::Memory;
use crate::resources::Resources;

/// A device that is to be in a machine, with its files open.
pub struct Attachment {
    /// What it is called in saved state: its kind, and a number where there can be several.
    pub name: String,
    /// How the guest reaches it.
    pub transport: TransportKind,
    /// The device.
    pub device: Box<dyn VirtioDevice>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, transport, device } = self;
        let kind = device.kind();
        f.debug_struct("Attachment")
            .field("name", name)
            .field("transport", transport)
            .field("kind", &kind)
            .finish()
    }
}

/// A device on virtio-mmio.
pub(super) struct OnMmio {
    pub(super) name: String,
    pub(super) window: Range,
    pub(super) registers: Arc<Mmio>,
    pub(super) aml: VirtioMmio,
}

/// Gives devices their places, in their order: a machine that is restored finds the same ones.
pub(super) fn attach(
    attachments: Vec<Attachment>,
    vm: &Vm,
    memory: &Memory,
    resources: &mut Resources,
) -> Result<Vec<OnMmio>, Error> {
    let mut on_mmio = Vec::new();
    for Attachment { name, transport: _, device } in attachments {
        let (window, gsi) = (resources.mmio(WINDOW)?, resources.line()?);
        let line = Arc::new(IrqfdLine::new(vm.clone(), gsi));
        let registers = Mmio::new(device, memory.clone(), window, line, Arc::new(vm.clone()))?;
        let aml = VirtioMmio { index: on_mmio.len() as u8, window, gsi };
        on_mmio.push(OnMmio { name, window, registers: Arc::new(registers), aml });
    }
    Ok(on_mmio)
}

impl OnMmio {
    pub(super) fn device(&self) -> Arc<dyn BusDevice> {
        self.registers.clone()
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        self.registers.core()
    }
}
