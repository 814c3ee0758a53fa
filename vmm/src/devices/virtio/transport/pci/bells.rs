//! Where a driver rings (4.1.4.4): in the BAR of ports, or in the one in memory.

use std::sync::{Arc, Mutex, PoisonError};

use super::{NOTIFY, NOTIFY_STRIDE, PORT_STRIDE};
use crate::devices::pci::{ConfigSpace, Space};
use crate::devices::virtio::transport::Doorbell;
use crate::interrupt::{Address, Doorbells};

/// The doorbells of a function, which follow its BARs.
pub(super) struct Bells {
    doorbells: Arc<dyn Doorbells>,
    places: Mutex<Places>,
}

/// Where doorbells are: the first queue's notification address.
#[derive(Default)]
struct Places {
    /// Where the BARs are.
    memory: Option<Address>,
    ports: Option<Address>,
    /// There is a driver, which is about to ring.
    driver: bool,
    /// It has rung in memory. Until then, ports are all that is connected, if there are any: most drivers take these.
    in_memory: bool,
    /// Where doorbells are connected.
    connected: [Option<Address>; 2],
}

impl Places {
    fn moved(&mut self, config: &ConfigSpace) {
        let at = |space| Some(config.bar(space)?.start);
        self.memory = at(Space::Memory).map(|bar| Address::Mmio(bar + u64::from(NOTIFY.0)));
        self.ports = at(Space::Ports).map(Address::Pio);
    }

    fn wanted(&self) -> [Option<Address>; 2] {
        let memory = self.memory.filter(|_| self.in_memory || self.ports.is_none());
        if self.driver { [self.ports, memory] } else { [None, None] }
    }
}

/// The notification address of a queue.
fn bell(first: Address, queue: u16) -> Address {
    match first {
        Address::Pio(at) => Address::Pio(at + u64::from(queue) * u64::from(PORT_STRIDE)),
        Address::Mmio(at) => Address::Mmio(at + u64::from(queue) * u64::from(NOTIFY_STRIDE)),
    }
}

impl Bells {
    /// None is connected before there is a driver.
    pub(super) fn new(doorbells: Arc<dyn Doorbells>, config: &ConfigSpace) -> Self {
        let mut places = Places::default();
        places.moved(config);
        Self { doorbells, places: Mutex::new(places) }
    }

    /// The driver is about to ring.
    pub(super) fn connect(&self, doorbells: &[Doorbell]) {
        self.change(doorbells, |places| places.driver = true);
    }

    /// The BARs may be elsewhere now.
    pub(super) fn moved(&self, doorbells: &[Doorbell], config: &ConfigSpace) {
        self.change(doorbells, |places| places.moved(config));
    }

    /// The driver has rung in memory, where doorbells are not connected.
    pub(super) fn rung_in_memory(&self, doorbells: &[Doorbell]) {
        self.change(doorbells, |places| places.in_memory = true);
    }

    fn change(&self, doorbells: &[Doorbell], change: impl FnOnce(&mut Places)) {
        let places = &mut *self.places.lock().unwrap_or_else(PoisonError::into_inner);
        change(places);
        let wanted = places.wanted();
        for (connected, wanted) in places.connected.iter_mut().zip(wanted) {
            if *connected == wanted {
                continue;
            }
            for (queue, doorbell) in doorbells {
                if let Some(old) = *connected {
                    self.doorbells.disconnect(bell(old, *queue), None, doorbell);
                }
                if let Some(new) = wanted {
                    self.doorbells.connect(bell(new, *queue), None, doorbell);
                }
            }
            *connected = wanted;
        }
    }
}
