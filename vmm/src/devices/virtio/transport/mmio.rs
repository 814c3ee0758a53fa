//! virtio-mmio, version 2 (4.2): registers in a page, notifications by ioeventfd, interrupts by a line.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::layout::Range;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_mmio::*;

use super::{Area, Core, CoreState, Doorbell, Transport};
use crate::bus::{BusDevice, Effect};
use crate::devices::virtio::VirtioDevice;
use crate::interrupt::{Address, Doorbells, InterruptLine};
use crate::kvm::{Acknowledged, Vm};
use crate::memory::{Memory, Shown};
use crate::state::{self, Saved};

/// Bytes of a device's window: a page, so that a guest can map each device apart.
pub const WINDOW: u64 = 0x1000;
/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// `VendorID`.
const VENDOR: u32 = u32::from_le_bytes(*b"JFFY");
const CONFIG: usize = VIRTIO_MMIO_CONFIG as usize;
/// Bytes of configuration space that are shown; no device of ours has more.
const CONFIG_LEN: usize = 256;

/// The registers of one device.
pub struct Mmio {
    core: Arc<Core>,
    signals: Arc<Signals>,
}

/// What of it goes into a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MmioState {
    core: CoreState,
    interrupt_status: u32,
}

impl Saved for MmioState {
    const NAME: &'static str = "virtio-mmio";
    const VERSION: u16 = 1;
}

/// What can be read, with `InterruptStatus`; the interrupt line, and the doorbells.
struct Signals {
    registers: Shown,
    line: Arc<dyn InterruptLine>,
    doorbells: Arc<dyn Doorbells>,
    /// What notes acknowledgements without an exit, so that they are late; none if they may not be.
    late: Option<Vm>,
    window: Range,
}

impl Signals {
    /// Sets a bit of `InterruptStatus`. While it is set the driver has yet to acknowledge, and looks at everything after
    /// it has: so only a bit that was clear is worth an interrupt.
    fn raise(&self, bit: u32) {
        self.settle();
        if self.registers.at(VIRTIO_MMIO_INTERRUPT_STATUS).fetch_or(bit, Ordering::SeqCst) & bit == 0 {
            // Fails only when KVM has refused the line; then no interrupt can be had.
            let _ = self.line.trigger();
        }
    }

    /// Clears what has been acknowledged.
    fn settle(&self) {
        if let Some(vm) = &self.late {
            vm.settle();
        }
    }
}

impl Transport for Signals {
    fn interrupt_queue(&self, _queue: u16) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    fn interrupt_config(&self) {
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn connect(&self, doorbells: &[Doorbell]) {
        let at = Address::Mmio(self.window.start + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
        if let Some(vm) = &self.late {
            vm.acknowledge_late(&Acknowledged {
                at: self.window.start + u64::from(VIRTIO_MMIO_INTERRUPT_ACK),
                page: self.registers.clone(),
                offset: VIRTIO_MMIO_INTERRUPT_STATUS,
            });
        }
        for (queue, doorbell) in doorbells {
            self.doorbells.connect(at, Some(u32::from(*queue)), doorbell);
        }
    }

    fn reset(&self) {
        self.settle();
        self.registers.set(VIRTIO_MMIO_INTERRUPT_STATUS, 0);
    }

    fn show_status(&self, status: u8) {
        self.registers.set(VIRTIO_MMIO_STATUS, status.into());
    }

    fn show_config(&self, device: &dyn VirtioDevice) {
        let mut config = [0; CONFIG_LEN];
        device.read_config(0, &mut config);
        self.registers.set_bytes(CONFIG, &config);
    }

    fn show_features(&self, features: u32) {
        self.registers.set(VIRTIO_MMIO_DEVICE_FEATURES, features);
    }

    fn show_queue(&self, max_size: u16, ready: bool) {
        self.registers.set(VIRTIO_MMIO_QUEUE_NUM_MAX, max_size.into());
        self.registers.set(VIRTIO_MMIO_QUEUE_READY, ready.into());
    }

    fn show_generation(&self, generation: u32) {
        self.registers.set(VIRTIO_MMIO_CONFIG_GENERATION, generation);
    }
}

impl Mmio {
    /// Puts `device` at `window`, where the guest reads `registers`; its notifications go by `doorbells`, its interrupts
    /// by `line`. With `late`, that VM notes acknowledgements without an exit, and `InterruptStatus` shows them when there is
    /// the next interrupt: for drivers that look at it once for each, as Linux's does.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        window: Range,
        registers: Shown,
        line: Arc<dyn InterruptLine>,
        doorbells: Arc<dyn Doorbells>,
        late: Option<Vm>,
    ) -> io::Result<Self> {
        for (register, value) in [
            (VIRTIO_MMIO_MAGIC_VALUE, MAGIC),
            (VIRTIO_MMIO_VERSION, VERSION),
            (VIRTIO_MMIO_DEVICE_ID, device.kind().id().into()),
            (VIRTIO_MMIO_VENDOR_ID, VENDOR),
            // There is no shared memory region: all ones (4.2.2.1).
            (VIRTIO_MMIO_SHM_LEN_LOW, u32::MAX),
            (VIRTIO_MMIO_SHM_LEN_HIGH, u32::MAX),
            (VIRTIO_MMIO_SHM_BASE_LOW, u32::MAX),
            (VIRTIO_MMIO_SHM_BASE_HIGH, u32::MAX),
        ] {
            registers.set(register, value);
        }
        let signals = Arc::new(Signals { registers, line, doorbells, late, window });
        Ok(Self { core: Arc::new(Core::new(device, memory, signals.clone())?), signals })
    }

    /// Whether acknowledgements are late.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.signals.late.is_some()
    }

    /// The device behind the registers.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn write_register(&self, offset: u32, value: u32) {
        let selects = self.core.selects();
        let queue = selects.queue();
        let area = |area, upper| self.core.set_queue_area(queue, area, upper, value);
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.core.select_device_features(value),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => selects.select_driver_features(value),
            VIRTIO_MMIO_DRIVER_FEATURES => {
                self.core.set_driver_features(selects.driver_features(), value);
            }
            // A number beyond 16 bits is that of no queue.
            VIRTIO_MMIO_QUEUE_SEL => self.core.select_queue(value.try_into().unwrap_or(u16::MAX)),
            VIRTIO_MMIO_QUEUE_NUM => self.core.set_queue_size(queue, value.try_into().unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_READY if value & 1 == 1 => self.core.start_queue(queue),
            VIRTIO_MMIO_QUEUE_READY => self.core.stop_queue(queue),
            // Reaches us only where the doorbell is not connected.
            VIRTIO_MMIO_QUEUE_NOTIFY => self.core.notified(value.try_into().unwrap_or(u16::MAX)),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.signals.settle();
                self.signals.registers.at(VIRTIO_MMIO_INTERRUPT_STATUS).fetch_and(!value, Ordering::SeqCst);
            }
            VIRTIO_MMIO_STATUS => self.core.set_status(value as u8),
            VIRTIO_MMIO_QUEUE_DESC_LOW => area(Area::Descriptors, false),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => area(Area::Descriptors, true),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => area(Area::Driver, false),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => area(Area::Driver, true),
            VIRTIO_MMIO_QUEUE_USED_LOW => area(Area::Device, false),
            VIRTIO_MMIO_QUEUE_USED_HIGH => area(Area::Device, true),
            _ => {}
        }
    }
}

impl BusDevice for Mmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.signals.registers.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match (offset.checked_sub(CONFIG as u64), <[u8; 4]>::try_from(data)) {
            (Some(offset), _) => self.core.write_config(offset, data),
            // Registers are written as a whole (4.2.2.2).
            (None, Ok(data)) => self.write_register(offset as u32, u32::from_le_bytes(data)),
            (None, Err(_)) => {}
        }
        Effect::None
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Self { core, signals } = self;
        signals.settle();
        Some(state::encode(&MmioState {
            core: core.save(),
            interrupt_status: signals.registers.at(VIRTIO_MMIO_INTERRUPT_STATUS).load(Ordering::SeqCst),
        }))
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        let MmioState { core, interrupt_status } = state::decode(saved)?;
        self.core.restore(&core)?;
        self.signals.registers.set(VIRTIO_MMIO_INTERRUPT_STATUS, interrupt_status);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use abi::layout::VIRTIO_MMIO;

    use super::*;
    use crate::config::{HugePages, MemorySpec};
    use crate::devices::virtio::Entropy;
    use crate::interrupt::{CountingLine, NoDoorbells};
    use crate::memory::layout::RamLayout;

    fn device() -> (Mmio, Arc<CountingLine>) {
        let spec = MemorySpec { size: 2 << 20, huge: HugePages::Default, prealloc: false, shared: false };
        let memory = Memory::new(&spec, &RamLayout::new(spec.size)).unwrap();
        let line = Arc::new(CountingLine::default());
        let window = Range { start: VIRTIO_MMIO.start, len: WINDOW };
        let registers = Shown::new(1).unwrap().remove(0);
        let doorbells = Arc::new(NoDoorbells);
        (
            Mmio::new(Box::new(Entropy), memory, window, registers, line.clone(), doorbells, None).unwrap(),
            line,
        )
    }

    fn read(device: &Mmio, offset: u32) -> u32 {
        let mut data = [0xff; 4];
        device.read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn registers_say_what_it_is() {
        let (device, _) = device();
        assert_eq!([0, 4, 8].map(|offset| read(&device, offset)), [MAGIC, 2, 4]);
        device.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL.into(), &[1, 0, 0, 0]);
        assert_eq!(read(&device, VIRTIO_MMIO_DEVICE_FEATURES), 1, "VERSION_1");
        assert_eq!(read(&device, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
        device.write(VIRTIO_MMIO_QUEUE_SEL.into(), &[1, 0, 0, 0]);
        assert_eq!(read(&device, VIRTIO_MMIO_QUEUE_NUM_MAX), 0, "one queue");
        device.write(VIRTIO_MMIO_QUEUE_SEL.into(), &[0, 0, 1, 0]);
        assert_eq!(read(&device, VIRTIO_MMIO_QUEUE_NUM_MAX), 0, "not queue 0");
        assert_eq!(read(&device, VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
        let mut half = [0xff; 2];
        device.read(0x1, &mut half);
        assert_eq!(half, *b"ir", "as any other memory");
    }

    #[test]
    fn one_interrupt_until_it_is_acknowledged() {
        let (device, line) = device();
        let count = || line.0.load(Ordering::SeqCst);
        device.signals.interrupt_queue(0);
        device.signals.interrupt_queue(0);
        assert_eq!(count(), 1);
        device.signals.interrupt_config();
        assert_eq!((count(), read(&device, VIRTIO_MMIO_INTERRUPT_STATUS)), (2, 3));
        device.write(VIRTIO_MMIO_INTERRUPT_ACK.into(), &[1, 0, 0, 0]);
        assert_eq!(read(&device, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        device.signals.interrupt_queue(0);
        assert_eq!(count(), 3);
        device.write(VIRTIO_MMIO_STATUS.into(), &[0; 4]);
        assert_eq!(read(&device, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }

    #[test]
    fn a_live_queue_can_be_given_up() {
        let (device, _) = device();
        let write = |register: u32, value: u32| device.write(register.into(), &value.to_le_bytes());
        write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
        write(VIRTIO_MMIO_STATUS, 0xb);
        write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
        write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
        write(VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
        write(VIRTIO_MMIO_QUEUE_READY, 1);
        write(VIRTIO_MMIO_STATUS, 0xf);
        assert_eq!((read(&device, VIRTIO_MMIO_STATUS), read(&device, VIRTIO_MMIO_QUEUE_READY)), (0xf, 1));
        write(VIRTIO_MMIO_QUEUE_READY, 0);
        assert_eq!(read(&device, VIRTIO_MMIO_QUEUE_READY), 0, "a driver waits for this");
        write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(read(&device, VIRTIO_MMIO_QUEUE_READY), 0, "not without a reset");
    }

    #[test]
    fn what_is_selected_is_shown() {
        let (device, _) = device();
        let write = |register: u32, value: u32| device.write(register.into(), &value.to_le_bytes());
        let queue = || (read(&device, VIRTIO_MMIO_QUEUE_NUM_MAX), read(&device, VIRTIO_MMIO_QUEUE_READY));
        assert_eq!((queue(), read(&device, VIRTIO_MMIO_CONFIG_GENERATION)), ((64, 0), 0));
        write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(queue(), (64, 1));
        write(VIRTIO_MMIO_QUEUE_SEL, 1);
        assert_eq!(queue(), (0, 0));
        write(VIRTIO_MMIO_QUEUE_SEL, 0);
        assert_eq!(queue(), (64, 1));
        write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(queue(), (64, 0));
        write(VIRTIO_MMIO_STATUS, 4);
        assert_eq!(read(&device, VIRTIO_MMIO_STATUS), 0x44, "DRIVER_OK before all that has to be first");
    }

    #[test]
    fn state_comes_back() {
        let (first, _) = device();
        first.write(VIRTIO_MMIO_QUEUE_SEL.into(), &[5, 0, 0, 0]);
        first.write(VIRTIO_MMIO_STATUS.into(), &[3, 0, 0, 0]);
        first.signals.interrupt_config();
        let (second, _) = device();
        second.restore(&first.save().unwrap()).unwrap();
        assert_eq!(second.save(), first.save());
        for register in (0..WINDOW as u32).step_by(4) {
            assert_eq!(read(&second, register), read(&first, register), "{register:#x}");
        }
        assert_eq!((read(&second, VIRTIO_MMIO_STATUS), read(&second, VIRTIO_MMIO_QUEUE_NUM_MAX)), (3, 0));
    }
}
