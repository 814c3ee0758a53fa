//! The common configuration structure (4.1.4.3).

use std::sync::atomic::Ordering;

use virtio_queue::QueueT;

use super::VirtioPci;
use crate::devices::pci::NO_VECTOR;
use crate::devices::virtio::transport::Area;

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const DEVICE_STATUS: u64 = 0x14;
const CONFIG_GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
/// Addresses of the three parts of a queue, in two halves of four bytes each.
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DEVICE_END: u64 = 0x38;

impl VirtioPci {
    /// Index of the selected queue's vector.
    fn queue_vector(&self) -> usize {
        1 + usize::from(self.core.selects().queue())
    }

    fn vector(&self, index: usize) -> u16 {
        self.signals.vectors.get(index).map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    /// A vector that is not in the table cannot be had: the driver reads that back (4.1.5.1.2.1).
    fn set_vector(&self, index: usize, vector: u16) {
        let vector = if vector < self.signals.msix.count() { vector } else { NO_VECTOR };
        if let Some(own) = self.signals.vectors.get(index) {
            own.store(vector, Ordering::SeqCst);
        }
    }

    /// Each field is read in its own width, and those of eight bytes in halves (4.1.3.1).
    pub(super) fn read_common(&self, offset: u64, data: &mut [u8]) {
        let (core, selects) = (&self.core, self.core.selects());
        let queue = selects.queue();
        let value = match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => selects.device_features(),
            (DEVICE_FEATURE, 4) => core.device_features(selects.device_features()),
            (DRIVER_FEATURE_SELECT, 4) => selects.driver_features(),
            (DRIVER_FEATURE, 4) => core.driver_features(selects.driver_features()),
            (CONFIG_MSIX_VECTOR, 2) => self.vector(0).into(),
            (NUM_QUEUES, 2) => core.queue_count().into(),
            (DEVICE_STATUS, 1) => core.status().into(),
            (CONFIG_GENERATION, 1) => core.config_generation(),
            (QUEUE_SELECT, 2) => queue.into(),
            (QUEUE_SIZE, 2) => core.queue(queue, |ring| ring.size().into()),
            (QUEUE_MSIX_VECTOR, 2) => self.vector(self.queue_vector()).into(),
            (QUEUE_ENABLE, 2) => core.queue(queue, |ring| ring.ready().into()),
            (QUEUE_NOTIFY_OFF, 2) => queue.into(),
            (QUEUE_DESC..QUEUE_DEVICE_END, 4) if offset.is_multiple_of(4) => {
                let address = core.queue(queue, |ring| match (offset - QUEUE_DESC) / 8 {
                    0 => ring.desc_table(),
                    1 => ring.avail_ring(),
                    _ => ring.used_ring(),
                });
                (address >> (8 * (offset % 8))) as u32
            }
            _ => 0,
        };
        data.fill(0);
        let len = data.len().min(4);
        data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    pub(super) fn write_common(&self, offset: u64, data: &[u8]) {
        let (core, selects) = (&self.core, self.core.selects());
        let queue = selects.queue();
        match *data {
            [byte] if offset == DEVICE_STATUS => core.set_status(byte),
            [low, high] => {
                let value = u16::from_le_bytes([low, high]);
                match offset {
                    CONFIG_MSIX_VECTOR => self.set_vector(0, value),
                    QUEUE_SELECT => core.select_queue(value),
                    QUEUE_SIZE => core.set_queue_size(queue, value),
                    QUEUE_MSIX_VECTOR => self.set_vector(self.queue_vector(), value),
                    // It cannot be taken back but by a reset (4.1.4.3.2).
                    QUEUE_ENABLE if value == 1 => core.start_queue(queue),
                    _ => {}
                }
            }
            [a, b, c, d] => {
                let value = u32::from_le_bytes([a, b, c, d]);
                match offset {
                    DEVICE_FEATURE_SELECT => core.select_device_features(value),
                    DRIVER_FEATURE_SELECT => selects.select_driver_features(value),
                    DRIVER_FEATURE => {
                        core.set_driver_features(selects.driver_features(), value);
                    }
                    QUEUE_DESC..QUEUE_DEVICE_END if offset.is_multiple_of(4) => {
                        let area = match (offset - QUEUE_DESC) / 8 {
                            0 => Area::Descriptors,
                            1 => Area::Driver,
                            _ => Area::Device,
                        };
                        core.set_queue_area(queue, area, offset % 8 == 4, value);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}
