//! A virtio network device, polled, as smoltcp wants one.
#![allow(unsafe_code, reason = "buffers that a device writes to, and registers in memory")]

use core::ptr::NonNull;

use abi::layout;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::pci::bus::{Command, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceType, SomeTransport, Transport};

use crate::memory::{self, Identity};
use crate::pci::Ports;

const QUEUE: usize = 16;
const BUFFERS: usize = 8;
const FRAME: usize = 1514;
/// A frame and the device's header before it.
const BUFFER: usize = 2048;
/// Where virtio-mmio windows are: first, distance, how many. Jiffy's, and those of QEMU's microvm.
const WINDOWS: [(u64, u64, u64); 2] = [(layout::VIRTIO_MMIO.start, 0x1000, 16), (0xfeb0_0000, 0x200, 24)];
const WINDOW: usize = 0x200;

/// The device.
pub struct Net {
    raw: VirtIONetRaw<Identity, SomeTransport<'static>, QUEUE>,
    buffers: [&'static mut [u8]; BUFFERS],
    /// Which buffer the device has under a token.
    owner: [usize; QUEUE],
}

impl Net {
    /// The first network device, if there is one.
    #[must_use]
    pub fn find() -> Option<Self> {
        let transport = on_mmio().or_else(on_pci)?;
        let mut raw = VirtIONetRaw::new(transport).expect("the device refuses its driver");
        raw.disable_interrupts();
        let buffers = core::array::from_fn(|_| memory::bytes(BUFFER));
        let mut net = Self { raw, buffers, owner: [0; QUEUE] };
        (0..BUFFERS).for_each(|index| net.offer(index));
        Some(net)
    }

    /// Its address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.raw.mac_address()
    }

    fn offer(&mut self, index: usize) {
        // SAFETY: the buffer is static, and not looked at before the device gives it back.
        let token = unsafe { self.raw.receive_begin(self.buffers[index]) }.expect("a place in the queue");
        self.owner[usize::from(token)] = index;
    }
}

fn on_mmio() -> Option<SomeTransport<'static>> {
    let windows = WINDOWS.iter().flat_map(|&(first, step, count)| (0..count).map(move |n| first + n * step));
    windows.into_iter().find_map(|at| {
        let header = NonNull::new(at as *mut VirtIOHeader)?;
        // SAFETY: where there is no window, reads give all ones, which is not the magic number.
        let transport = unsafe { MmioTransport::new(header, WINDOW) }.ok()?;
        (transport.device_type() == DeviceType::Network).then(|| transport.into())
    })
}

fn on_pci() -> Option<SomeTransport<'static>> {
    let mut root = PciRoot::new(Ports::find()?);
    let is_net = |info: &_| virtio_device_type(info) == Some(DeviceType::Network);
    let mut found = (0..=u8::MAX).flat_map(|bus| root.enumerate_bus(bus)).filter(|(_, info)| is_net(info));
    let (at, _) = found.next()?;
    root.set_command(at, Command::MEMORY_SPACE | Command::BUS_MASTER);
    Some(
        PciTransport::new::<Identity, _>(&mut root, at)
            .expect("a virtio device without its structures")
            .into(),
    )
}

/// A frame that has come.
pub struct Received {
    frame: [u8; FRAME],
    len: usize,
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.frame[..self.len])
    }
}

/// Room for a frame to send.
pub struct Sender<'a>(&'a mut Net);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = [0; FRAME];
        let result = fill(&mut frame[..len]);
        // A frame that is lost is sent again.
        let _ = self.0.raw.send(&frame[..len]);
        result
    }
}

impl Device for Net {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sender<'_>)> {
        let token = self.raw.poll_receive()?;
        let index = self.owner[usize::from(token)];
        // SAFETY: the buffer is the one that was offered under this token.
        let came = unsafe { self.raw.receive_complete(token, self.buffers[index]) };
        let mut received = Received { frame: [0; FRAME], len: 0 };
        if let Ok((header, len)) = came {
            received.len = len.min(FRAME);
            received.frame[..received.len]
                .copy_from_slice(&self.buffers[index][header..header + received.len]);
        }
        self.offer(index);
        Some((received, Sender(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}
