//! Registers of a transport, for a driver that means harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::layout::Range;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_STATUS,
};
use virtio_queue::QueueT;

use super::{Core, FakeTransport, Script};
use crate::bus::BusDevice;
use crate::devices::pci::{Bars, Function, Space};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::transport::mmio::{Mmio, WINDOW};
use crate::devices::virtio::transport::pci::{BAR, PORTS, VirtioPci};
use crate::interrupt::{CountingLine, Message, Messages, NoDoorbells};
use crate::memory::{Memory, Shown};

/// Registers of a transport, for random accesses.
pub(super) enum Registers {
    None,
    Mmio(Arc<Mmio>),
    Pci { function: Arc<VirtioPci>, page: Shown, hidden: Arc<AtomicBool> },
}

impl Registers {
    /// A device behind a core alone, on virtio-mmio or on virtio-pci, in turn by `kind`.
    pub(super) fn new(device: Box<dyn VirtioDevice>, memory: &Memory, kind: u8) -> (Arc<Core>, Self) {
        let (memory, doorbells) = (memory.clone(), Arc::new(NoDoorbells));
        let range = |len| Range { start: 0xc000_0000, len };
        let page = Shown::new(1).expect("a page").remove(0);
        match kind % 3 {
            0 => {
                let core = Core::new(device, memory, Arc::<FakeTransport>::default()).expect("descriptors");
                (Arc::new(core), Self::None)
            }
            1 => {
                let line = Arc::new(CountingLine::default());
                let mmio = Mmio::new(device, memory, range(WINDOW), page, line, doorbells, None);
                let mmio = Arc::new(mmio.expect("descriptors"));
                (mmio.core().clone(), Self::Mmio(mmio))
            }
            _ => {
                let bars = Bars { memory: range(BAR), ports: Some(Range { start: 0xc000, len: PORTS }) };
                let function = VirtioPci::new(device, memory, bars, Box::new(NoMessages), doorbells);
                let hidden = Arc::<AtomicBool>::default();
                let hide = {
                    let hidden = hidden.clone();
                    Box::new(move || hidden.store(true, Ordering::Relaxed))
                };
                let function = Arc::new(function.expect("descriptors").shown(page.clone(), hide));
                (function.core().clone(), Self::Pci { function, page, hidden })
            }
        }
    }

    /// Reads or writes one, somehow.
    pub(super) fn access(&self, script: &mut Script<'_>) {
        let (write, offset) = (script.number(1), script.number(2));
        let mut data = script.number(8).to_le_bytes();
        let data = &mut data[..1 << (write >> 1 & 3)];
        let space = if offset & 0x4000 == 0 { Space::Memory } else { Space::Ports };
        match (self, write & 1 == 1) {
            (Self::None, _) => {}
            (Self::Mmio(mmio), true) => {
                mmio.write(offset % WINDOW, data);
            }
            (Self::Mmio(mmio), false) => mmio.read(offset % WINDOW, data),
            (Self::Pci { function: pci, .. }, true) if offset & 0x8000 != 0 => {
                pci.write_config(offset as u16 & 0xff, data);
            }
            (Self::Pci { function: pci, .. }, false) if offset & 0x8000 != 0 => {
                pci.read_config(offset as u16 & 0xff, data);
            }
            (Self::Pci { function: pci, .. }, true) => pci.write_bar(space, offset % BAR, data),
            (Self::Pci { function: pci, .. }, false) => pci.read_bar(space, offset % BAR, data),
        }
    }

    /// What the driver reads without an exit has to be what a read would find.
    pub(super) fn check(&self, core: &Core) {
        match self {
            Self::None => {}
            Self::Mmio(mmio) => {
                let read = |register: u32| {
                    let mut data = [0; 4];
                    mmio.read(register.into(), &mut data);
                    u32::from_le_bytes(data)
                };
                let queue = core.queue(core.selects().queue(), |ring| (ring.max_size(), ring.ready()));
                let shown = (read(VIRTIO_MMIO_QUEUE_NUM_MAX), read(VIRTIO_MMIO_QUEUE_READY));
                assert_eq!(shown, (queue.0.into(), queue.1.into()));
                let shown = [VIRTIO_MMIO_STATUS, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES]
                    .map(read);
                let features = core.device_features(core.selects().device_features());
                assert_eq!(shown, [core.status().into(), core.config_generation(), features]);
                let (mut shown, mut config) = ([0; 256], [0; 256]);
                mmio.read(VIRTIO_MMIO_CONFIG.into(), &mut shown);
                core.read_config(0, &mut config);
                assert!(shown == config, "{shown:?}, not {config:?}");
            }
            Self::Pci { hidden, .. } if hidden.load(Ordering::Relaxed) => {}
            Self::Pci { function, page, .. } => {
                let (mut shown, mut config) = ([0; 256], [0; 256]);
                page.read(0, &mut shown);
                function.read_config(0, &mut config);
                assert!(shown == config, "{shown:?}, not {config:?}");
            }
        }
    }
}

struct NoMessages;

impl Messages for NoMessages {
    fn send(&self, _vector: u16, _message: Message) {}
}
