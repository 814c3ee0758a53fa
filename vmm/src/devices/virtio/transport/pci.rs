//! virtio-pci, modern (4.1): a PCI function with a BAR in memory, and perhaps one of ports for notifications only. A write
//! to a port is an exit that KVM understands without decoding the guest's instruction, as it must one to memory (but on
//! Intel's processors), so that way stands first among the capabilities. There are drivers that want to hear of memory
//! only, and of nothing else first: who boots them gives them no ports.
//!
//! | offset in memory | what |
//! |-|-|
//! | 0x0000 | common configuration (4.1.4.3) |
//! | 0x0100 | ISR status (4.1.4.5) |
//! | 0x0400 | device-specific configuration (4.1.4.6) |
//! | 0x1000 | notifications, four bytes a queue (4.1.4.4) |
//! | 0x2000 | MSI-X table |
//! | 0x3000 | MSI-X pending bits |

mod bells;
mod common;
mod page;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::layout::Range;
use serde::{Deserialize, Serialize};

use super::{Core, CoreState, Doorbell, Transport};
use crate::devices::pci::{Bars, ConfigSpace, Function, Identity, Msix, MsixState, NO_VECTOR, Space};
use crate::devices::virtio::{DeviceKind, VirtioDevice};
use crate::interrupt::{Doorbells, Messages};
use crate::memory::{Memory, Shown};
use crate::state::{self, Saved};
use bells::Bells;
use page::Page;

/// Bytes of the BAR in memory.
pub const BAR: u64 = 0x4000;
/// Ports of the other one.
pub const PORTS: u64 = 0x100;
/// Offset and length of each part of the BAR in memory.
const COMMON: (u32, u32) = (0x0000, 0x0040);
const ISR: (u32, u32) = (0x0100, 0x0004);
const DEVICE: (u32, u32) = (0x0400, 0x0c00);
const NOTIFY: (u32, u32) = (0x1000, 0x1000);
const TABLE: (u32, u32) = (0x2000, 0x0800);
const PENDING: (u32, u32) = (0x3000, 0x0010);
/// The widest access to common configuration that virtio knows.
const HALF: usize = 4;
/// Bytes between the notification addresses of two queues; ports between theirs.
const NOTIFY_STRIDE: u32 = 4;
const PORT_STRIDE: u32 = 2;
/// The most queues, so that each has a vector in the table beside the one for configuration changes.
const MAX_QUEUES: usize = 127;
const _: () = assert!(MAX_QUEUES as u64 * PORT_STRIDE as u64 <= PORTS);

/// Red Hat's number, and the first of the devices (4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// Capability IDs: vendor-specific, MSI-X.
const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX: u8 = 0x11;
/// `cfg_type` of virtio's capabilities (4.1.4).
const TYPE_COMMON: u8 = 1;
const TYPE_NOTIFY: u8 = 2;
const TYPE_ISR: u8 = 3;
const TYPE_DEVICE: u8 = 4;
const TYPE_PCI: u8 = 5;
/// ISR status: a queue; the configuration.
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;

/// One function.
pub struct VirtioPci {
    core: Arc<Core>,
    signals: Arc<Signals>,
    config: Mutex<ConfigSpace>,
    /// Offset of the MSI-X capability.
    msix_at: usize,
    /// Offset of the capability by which configuration space reaches into the BARs (4.1.4.9).
    window_at: usize,
    page: Option<Page>,
}

/// What of it goes into a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PciState {
    core: CoreState,
    config: Vec<u8>,
    msix: MsixState,
    isr: u8,
    vectors: Vec<u16>,
}

impl Saved for PciState {
    const NAME: &'static str = "virtio-pci";
    const VERSION: u16 = 2;
}

/// Interrupts by message, and the doorbells.
struct Signals {
    msix: Msix,
    isr: AtomicU8,
    /// The vector of configuration changes, then those of the queues.
    vectors: Vec<AtomicU16>,
    bells: Bells,
}

impl Signals {
    fn raise(&self, bit: u8, vector: usize) {
        self.isr.fetch_or(bit, Ordering::SeqCst);
        let vector = self.vectors.get(vector).map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst));
        if vector != NO_VECTOR {
            self.msix.raise(vector);
        }
    }
}

impl Transport for Signals {
    fn interrupt_queue(&self, queue: u16) {
        self.raise(ISR_QUEUE, 1 + usize::from(queue));
    }

    fn interrupt_config(&self) {
        self.raise(ISR_CONFIG, 0);
    }

    fn connect(&self, doorbells: &[Doorbell]) {
        self.bells.connect(doorbells);
    }

    fn reset(&self) {
        self.isr.store(0, Ordering::SeqCst);
        for vector in &self.vectors {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
    }
}

/// Base class and subclass of a device, by which drivers that are not virtio's sort it.
fn class(kind: DeviceKind) -> u32 {
    match kind {
        DeviceKind::Net => 0x02_00_00,
        DeviceKind::Block => 0x01_80_00,
        DeviceKind::Console => 0x07_80_00,
        DeviceKind::Vsock => 0x02_80_00,
        DeviceKind::Pmem => 0x05_80_00,
        DeviceKind::Entropy => 0xff_00_00,
    }
}

/// A capability that says where in a BAR a part is (4.1.4), from its length on.
fn part(cfg_type: u8, space: Space, (offset, len): (u32, u32), more: &[u8]) -> Vec<u8> {
    let mut body = vec![(16 + more.len()) as u8, cfg_type, space as u8, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(more);
    body
}

impl VirtioPci {
    /// Puts `device` on a function with these BARs: [`BAR`] bytes and [`PORTS`] ports (or none), aligned to their number. Its
    /// notifications go by `doorbells`, its interrupts by `messages`.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        bars: Bars,
        messages: Box<dyn Messages>,
        doorbells: Arc<dyn Doorbells>,
    ) -> io::Result<Self> {
        let (kind, queues) = (device.kind(), device.queue_sizes().len());
        if queues > MAX_QUEUES {
            return Err(io::Error::other(format!(
                "{queues} queues: virtio-pci has at most {MAX_QUEUES} here"
            )));
        }
        let count = vectors(queues);
        let id = FIRST_DEVICE + kind.id();
        let identity = Identity {
            vendor: VENDOR,
            device: id,
            revision: 1,
            class: class(kind),
            subsystem_vendor: VENDOR,
            subsystem: id,
        };
        let mut config = ConfigSpace::new(&identity, bars);
        let mut body = (count - 1).to_le_bytes().to_vec();
        body.extend(TABLE.0.to_le_bytes());
        body.extend(PENDING.0.to_le_bytes());
        let msix_at = config.add_capability(MSIX, &body);
        config.allow(msix_at + 2, &[0, 0xc0]);
        let mut add = |cfg_type, space, at, more: &[u8]| {
            config.add_capability(VENDOR_SPECIFIC, &part(cfg_type, space, at, more))
        };
        add(TYPE_COMMON, Space::Memory, COMMON, &[]);
        if bars.ports.is_some() {
            add(TYPE_NOTIFY, Space::Ports, (0, PORTS as u32), &PORT_STRIDE.to_le_bytes());
        }
        add(TYPE_ISR, Space::Memory, ISR, &[]);
        add(TYPE_DEVICE, Space::Memory, DEVICE, &[]);
        let window_at = add(TYPE_PCI, Space::Memory, (0, 0), &[0; 4]);
        // Last, so that drivers that take ports need not walk past it.
        add(TYPE_NOTIFY, Space::Memory, NOTIFY, &NOTIFY_STRIDE.to_le_bytes());
        // `bar`, then `offset` and `length`; the data goes through.
        config.allow(window_at + 4, &[0xff]);
        config.allow(window_at + 8, &[0xff; 8]);
        let signals = Arc::new(Signals {
            msix: Msix::new(count, messages),
            isr: AtomicU8::new(0),
            vectors: (0..count).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            bells: Bells::new(doorbells, &config),
        });
        Ok(Self {
            core: Arc::new(Core::new(device, memory, signals.clone())?),
            signals,
            config: Mutex::new(config),
            msix_at,
            window_at,
            page: None,
        })
    }

    /// Shows the guest its configuration space in a page, which `hide` takes away again.
    #[must_use]
    pub fn shown(mut self, page: Shown, hide: Box<dyn Fn() + Send + Sync>) -> Self {
        let page = Page::new(page, hide, &self.config());
        self.page = Some(page);
        self
    }

    /// The device behind the registers.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the window capability points at, if an access to its data can mean that.
    fn window(&self, config: &ConfigSpace, offset: u16, len: usize) -> Option<(Space, u64)> {
        let data = self.window_at + 16;
        let (bar, at) = (config.word(self.window_at + 4) & 0xff, config.dword(self.window_at + 8));
        let wanted = config.dword(self.window_at + 12) as usize;
        let whole = usize::from(offset) == data && len == wanted && matches!(len, 1 | 2 | 4);
        let (space, size) = match bar {
            0 => (Space::Memory, BAR),
            1 => (Space::Ports, PORTS),
            _ => return None,
        };
        let inside = u64::from(at) + len as u64 <= size && (at as usize).is_multiple_of(len.max(1));
        (whole && inside).then_some((space, at.into()))
    }

    fn show(&self, config: &ConfigSpace, offset: usize, len: usize) {
        if let Some(page) = &self.page {
            page.written(config, self.window_at, offset, len);
        }
    }

    /// The guest may have moved a BAR, or changed how MSI-X is.
    fn config_written(&self, config: &ConfigSpace) {
        self.signals.msix.set_control(config.word(self.msix_at + 2));
        self.signals.bells.moved(self.core.connected(), config);
    }

    /// The driver has rung, where the doorbell is not connected.
    fn rung(&self, space: Space, queue: u64) {
        if space == Space::Memory {
            self.signals.bells.rung_in_memory(self.core.connected());
        }
        self.core.notified(queue as u16);
    }
}

/// One vector for each queue, and one for configuration changes.
#[must_use]
pub fn vectors(queues: usize) -> u16 {
    queues as u16 + 1
}

/// The offset in a part of the BAR, if an offset in the BAR is within it.
fn within(offset: u64, (start, len): (u32, u32)) -> Option<u64> {
    offset.checked_sub(start.into()).filter(|&at| at < len.into())
}

/// Fields of eight bytes are to be accessed in halves (4.1.3.1), yet there are drivers that do not.
fn halves<T>(offset: u64, chunks: impl Iterator<Item = T>) -> impl Iterator<Item = (u64, T)> {
    (offset..).step_by(HALF).zip(chunks)
}

impl Function for VirtioPci {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let config = self.config();
        match self.window(&config, offset, data.len()) {
            Some((space, at)) => {
                drop(config);
                self.read_bar(space, at, data);
            }
            None => config.read(offset, data),
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut config = self.config();
        if let Some((space, at)) = self.window(&config, offset, data.len()) {
            drop(config);
            return self.write_bar(space, at, data);
        }
        let shape = |config: &ConfigSpace| {
            (config.bar(Space::Memory), config.bar(Space::Ports), config.word(self.msix_at + 2))
        };
        let before = shape(&config);
        config.write(offset, data);
        self.show(&config, offset.into(), data.len());
        if shape(&config) != before {
            self.config_written(&config);
        }
    }

    fn bar(&self, space: Space) -> Option<Range> {
        self.config().bar(space)
    }

    fn read_bar(&self, space: Space, offset: u64, data: &mut [u8]) {
        if space == Space::Ports {
            return;
        }
        if let Some(at) = within(offset, COMMON) {
            halves(at, data.chunks_mut(HALF)).for_each(|(at, data)| self.read_common(at, data));
        } else if within(offset, ISR) == Some(0) {
            // Reading acknowledges.
            data.fill(0);
            data[0] = self.signals.isr.swap(0, Ordering::SeqCst);
        } else if let Some(at) = within(offset, DEVICE) {
            self.core.read_config(at, data);
        } else if let Some(at) = within(offset, TABLE) {
            self.signals.msix.read_table(at, data);
        } else if let Some(at) = within(offset, PENDING) {
            self.signals.msix.read_pending(at, data);
        }
    }

    fn write_bar(&self, space: Space, offset: u64, data: &[u8]) {
        if space == Space::Ports {
            self.rung(space, offset / u64::from(PORT_STRIDE));
        } else if let Some(at) = within(offset, COMMON) {
            halves(at, data.chunks(HALF)).for_each(|(at, data)| self.write_common(at, data));
        } else if let Some(at) = within(offset, DEVICE) {
            self.core.write_config(at, data);
        } else if let Some(at) = within(offset, NOTIFY) {
            self.rung(space, at / u64::from(NOTIFY_STRIDE));
        } else if let Some(at) = within(offset, TABLE) {
            self.signals.msix.write_table(at, data);
        }
    }

    fn save(&self) -> Vec<u8> {
        let Self { core, signals, config: _, msix_at: _, window_at: _, page: _ } = self;
        let Signals { msix, isr, vectors, bells: _ } = signals.as_ref();
        state::encode(&PciState {
            core: core.save(),
            config: self.config().bytes().to_vec(),
            msix: msix.save(),
            isr: isr.load(Ordering::SeqCst),
            vectors: vectors.iter().map(|vector| vector.load(Ordering::SeqCst)).collect(),
        })
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        let PciState { core, config, msix, isr, vectors } = state::decode(saved)?;
        let damaged = state::Error::Damaged { name: PciState::NAME };
        if !self.signals.msix.restore(msix) || vectors.len() != self.signals.vectors.len() {
            return Err(damaged);
        }
        self.signals.isr.store(isr, Ordering::SeqCst);
        for (vector, saved) in self.signals.vectors.iter().zip(vectors) {
            vector.store(saved, Ordering::SeqCst);
        }
        let mut space = self.config();
        space.restore(&config);
        self.show(&space, 0, config.len());
        self.config_written(&space);
        drop(space);
        self.core.restore(&core)
    }
}
