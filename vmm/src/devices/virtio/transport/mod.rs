//! What lies between a driver and a device: one [`Core`], and the registers by which a driver reaches it.

mod core;
pub mod mmio;
pub mod pci;
mod source;

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;

pub use self::core::{Area, Core, CoreState};
pub use source::DeviceSource;

/// In the token of an event: it is of a descriptor that the device watches, not of the core's own.
pub(super) const DEVICE_TOKEN: u32 = 1 << 31;
/// The token of the core's own wake-ups; queues have theirs by number.
pub(super) const WAKE_TOKEN: u32 = DEVICE_TOKEN - 1;

/// A queue, and what is written to when its driver rings.
pub type Doorbell = (u16, Arc<EventFd>);

/// What the core needs of a transport: how interrupts reach the driver, and how its doorbells reach us.
pub trait Transport: Send + Sync {
    /// The driver is to look at a queue's used ring.
    fn interrupt_queue(&self, queue: u16);

    /// The driver is to look at the configuration space and the status.
    fn interrupt_config(&self);

    /// The driver is about to ring: makes the kernel turn the notifications of these queues into writes to their
    /// eventfds. Those that come as exits, the transport gives to [`Core::notified`].
    fn connect(&self, _doorbells: &[Doorbell]) {}

    /// The device has been reset: no interrupt is pending any more.
    fn reset(&self) {}

    /// The status has changed to this. For transports that have it ready where the driver reads.
    fn show_status(&self, _status: u8) {}

    /// The configuration space is now as `device` says.
    fn show_config(&self, _device: &dyn VirtioDevice) {}

    /// The driver has selected these features.
    fn show_features(&self, _features: u32) {}

    /// The queue that the driver has selected has this greatest size, none if there is no such queue, and is ready or not.
    fn show_queue(&self, _max_size: u16, _ready: bool) {}

    /// The configuration space has changed by itself so many times.
    fn show_generation(&self, _generation: u32) {}
}
