//! A machine without hardware: memory, an fw_cfg device, and ports that remember what was written to them.

pub mod pci;

use std::collections::{BTreeMap, HashMap};
use std::string::String;
use std::vec;
use std::vec::Vec;

use abi::e820::{self, Kind};
use abi::fw_cfg::{self, DmaAccess, File, dma, key};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::machine::Machine;
use crate::serial::{LINE_STATUS, TRANSMITTER_EMPTY};

/// A write to a port, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Of a byte.
    U8(u16, u8),
    /// Of two bytes.
    U16(u16, u16),
    /// Of four bytes.
    U32(u16, u32),
}

impl Access {
    /// The port.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::U8(port, _) | Self::U16(port, _) | Self::U32(port, _) => port,
        }
    }
}

/// An fw_cfg device.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Whether it does DMA.
    pub dma: bool,
    /// What it has.
    pub items: BTreeMap<u16, Vec<u8>>,
    selected: (u16, usize),
}

impl Device {
    fn byte(&mut self) -> u8 {
        let (item, at) = self.selected;
        self.selected.1 += 1;
        self.items.get(&item).and_then(|bytes| bytes.get(at)).copied().unwrap_or(0)
    }
}

/// The machine. Access to memory that is not mapped, or is not there, panics, which only the firmware's own mistakes
/// can lead to: devices that are told such an address say that the transfer failed.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    /// What ports read as; others read as all ones.
    pub reads: HashMap<u16, u8>,
    /// How often a port was read.
    pub read_count: usize,
    /// All writes, in order.
    pub log: Vec<Access>,
    /// Memory from 0 on.
    pub memory: Vec<u8>,
    /// What is mapped beyond the first 2 MiB, in whole pages.
    pub mapped: Vec<(u64, u64)>,
    /// The fw_cfg device, if there is one.
    pub fw_cfg: Option<Device>,
    /// PCI devices, if there is a bus.
    pub pci: Option<pci::Pci>,
    /// Registers of devices, four bytes each, by address.
    pub registers: BTreeMap<u64, u32>,
}

/// What the ROM is full of.
pub const ROM_BYTE: u8 = 0xf4;
const PAGE: u64 = 2 << 20;
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;
const PCI_DATA_END: u16 = PCI_DATA + 4;

impl Fake {
    /// With a UART that is always ready.
    #[must_use]
    pub fn with_uart() -> Self {
        Self { reads: [(LINE_STATUS, TRANSMITTER_EMPTY)].into(), ..Self::default() }
    }

    /// With RAM of so many bytes, and an fw_cfg device that says so, beside a UART.
    #[must_use]
    pub fn with_ram(len: usize) -> Self {
        let mut fake = Self { memory: vec![0xa5; len], ..Self::with_uart() };
        let items = [(key::SIGNATURE, fw_cfg::SIGNATURE.to_vec()), (key::FILE_DIR, vec![0; 4])].into();
        fake.fw_cfg = Some(Device { dma: true, items, selected: (0, 0) });
        let ram = e820::Entry { addr: 0.into(), size: (len as u64).into(), kind: Kind::RAM };
        fake.add_file("etc/e820", ram.as_bytes());
        fake
    }

    /// Adds a file to the directory; its selector.
    pub fn add_file(&mut self, name: &str, bytes: &[u8]) -> u16 {
        let device = self.fw_cfg.get_or_insert_default();
        let directory = device.items.entry(key::FILE_DIR).or_insert_with(|| vec![0; 4]);
        let count = (directory.len() - 4) / size_of::<File>();
        let select = key::FILE_FIRST + count as u16;
        let (size, name) = ((bytes.len() as u32).into(), fw_cfg::name(name));
        let file = File { size, select: select.into(), reserved: 0.into(), name };
        directory.extend_from_slice(file.as_bytes());
        directory[..4].copy_from_slice(&(count as u32 + 1).to_be_bytes());
        device.items.insert(select, bytes.to_vec());
        select
    }

    /// Exchanges the bytes of the file that was added last.
    pub fn set_last_file(&mut self, bytes: &[u8]) -> crate::fw_cfg::Item {
        let device = self.fw_cfg.get_or_insert_default();
        let mut last = device.items.last_entry().expect("a file");
        *last.get_mut() = bytes.to_vec();
        crate::fw_cfg::Item { select: *last.key(), size: bytes.len() as u32 }
    }

    /// Sets an item without a name.
    pub fn set_item(&mut self, item: u16, bytes: &[u8]) {
        self.fw_cfg.get_or_insert_default().items.insert(item, bytes.to_vec());
    }

    /// What was transmitted: writes to the data register while the divisor latch was closed.
    #[must_use]
    pub fn serial_output(&self) -> String {
        let mut latch = false;
        let mut output = Vec::new();
        for access in &self.log {
            match *access {
                Access::U8(0x3fb, value) => latch = value & 0x80 != 0,
                Access::U8(0x3f8, value) if !latch => output.push(value),
                _ => {}
            }
        }
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Where a value is, if it is mapped and there.
    fn range(&self, addr: u64, len: usize) -> core::ops::Range<usize> {
        let end = addr.checked_add(len as u64).expect("no wrap");
        let mapped = |page: u64| page < PAGE || self.mapped.iter().any(|it| (it.0..it.1).contains(&page));
        assert!(
            (addr..end).step_by(PAGE as usize).chain(end.checked_sub(1)).all(mapped),
            "{addr:#x} is not mapped"
        );
        assert!(end <= self.memory.len() as u64, "there is nothing at {addr:#x}");
        addr as usize..end as usize
    }

    fn transfer(&mut self, at: u64) {
        let Some(mut device) = self.fw_cfg.take() else { return };
        let access: DmaAccess = self.read(at);
        let control = access.control.get();
        if control & dma::SELECT != 0 {
            device.selected = ((control >> 16) as u16, 0);
        }
        let (len, addr) = (access.length.get() as usize, access.address.get() as usize);
        let mut failed = 0;
        match addr.checked_add(len).and_then(|end| self.memory.get_mut(addr..end)) {
            _ if control & dma::SKIP != 0 => device.selected.1 += len,
            Some(to) if control & dma::READ != 0 => {
                let (item, at) = device.selected;
                let bytes = device.items.get(&item).and_then(|bytes| bytes.get(at..)).unwrap_or_default();
                let (there, behind) = to.split_at_mut(len.min(bytes.len()));
                there.copy_from_slice(&bytes[..there.len()]);
                behind.fill(0);
                device.selected.1 += len;
            }
            Some(from) if control & dma::WRITE != 0 => {
                let (item, at) = device.selected;
                let room = device.items.get_mut(&item).and_then(|bytes| bytes.get_mut(at..at + from.len()));
                match room {
                    Some(to) => to.copy_from_slice(from),
                    None => failed = dma::ERROR,
                }
            }
            _ => failed = dma::ERROR,
        }
        self.fw_cfg = Some(device);
        self.write(at, failed.to_be());
    }
}

impl Machine for Fake {
    fn in_u8(&mut self, port: u16) -> u8 {
        self.read_count += 1;
        if let (PCI_DATA..PCI_DATA_END, Some(pci)) = (port, &mut self.pci) {
            return (pci.read() >> ((port - PCI_DATA) * 8)) as u8;
        }
        match &mut self.fw_cfg {
            Some(device) if port == fw_cfg::DATA => device.byte(),
            _ => self.reads.get(&port).copied().unwrap_or(0xff),
        }
    }

    fn in_u16(&mut self, port: u16) -> u16 {
        u16::from_le_bytes([self.in_u8(port), self.in_u8(port + 1)])
    }

    fn in_u32(&mut self, port: u16) -> u32 {
        if let (PCI_DATA, Some(pci)) = (port, &mut self.pci) {
            return pci.read();
        }
        match &self.fw_cfg {
            Some(device) if port == fw_cfg::DMA_ADDRESS_HIGH && device.dma => u32::from_le_bytes(*b"QEMU"),
            _ => u32::from(self.in_u16(port)) | u32::from(self.in_u16(port + 2)) << 16,
        }
    }

    fn out_u8(&mut self, port: u16, value: u8) {
        self.log.push(Access::U8(port, value));
        if let (PCI_DATA..PCI_DATA_END, Some(pci)) = (port, &mut self.pci) {
            let shift = (port - PCI_DATA) * 8;
            let rest = pci.read() & !(0xff << shift);
            pci.write(rest | u32::from(value) << shift);
        }
    }

    fn out_u16(&mut self, port: u16, value: u16) {
        self.log.push(Access::U16(port, value));
        if let (PCI_DATA..PCI_DATA_END, Some(pci)) = (port, &mut self.pci) {
            let shift = (port - PCI_DATA) * 8;
            let rest = pci.read() & !(0xffff << shift);
            pci.write(rest | u32::from(value) << shift);
        }
        if let Some(device) = self.fw_cfg.as_mut().filter(|_| port == fw_cfg::SELECTOR) {
            device.selected = (value, 0);
        }
    }

    fn out_u32(&mut self, port: u16, value: u32) {
        self.log.push(Access::U32(port, value));
        match (port, &mut self.pci) {
            (PCI_ADDRESS, Some(pci)) => pci.select(value),
            (PCI_DATA, Some(pci)) => pci.write(value),
            _ => {}
        }
        if port == fw_cfg::DMA_ADDRESS_LOW && self.fw_cfg.as_ref().is_some_and(|device| device.dma) {
            self.transfer(u32::from_be(value).into());
        }
    }

    fn in_bytes(&mut self, port: u16, to: u64, len: usize) {
        for at in self.range(to, len) {
            self.memory[at] = self.in_u8(port);
        }
    }

    fn map(&mut self, addr: u64, len: u64) {
        assert!(addr.checked_add(len).is_some_and(|end| end <= crate::memory_map::FOUR_GIB));
        if len > 0 {
            self.mapped.push((addr & !(PAGE - 1), (addr + len).next_multiple_of(PAGE)));
        }
    }

    fn read<T: FromBytes>(&self, addr: u64) -> T {
        T::read_from_bytes(&self.memory[self.range(addr, size_of::<T>())]).expect("as many bytes")
    }

    fn write<T: IntoBytes + Immutable>(&mut self, addr: u64, value: T) {
        self.write_bytes(addr, value.as_bytes());
    }

    fn bytes(&self, addr: u64, len: usize) -> &[u8] {
        &self.memory[self.range(addr, len)]
    }

    fn write_bytes(&mut self, addr: u64, bytes: &[u8]) {
        let range = self.range(addr, bytes.len());
        self.memory[range].copy_from_slice(bytes);
    }

    fn copy(&mut self, from: u64, to: u64, len: usize) {
        if from >= abi::layout::ROM.start {
            let to = self.range(to, len);
            self.memory[to].fill(ROM_BYTE);
            return;
        }
        let (from, to) = (self.range(from, len), self.range(to, len));
        assert!(from.end <= to.start || to.end <= from.start || len == 0, "the ranges overlap");
        self.memory.copy_within(from, to.start);
    }

    fn fill_u32(&mut self, addr: u64, value: u32, count: usize) {
        (0..count as u64).for_each(|i| self.write(addr + i * 4, value));
    }

    fn clear(&mut self, addr: u64, len: usize) {
        let range = self.range(addr, len);
        self.memory[range].fill(0);
    }

    fn mmio_read_u8(&mut self, addr: u64) -> u8 {
        (self.mmio_read_u32(addr & !3) >> (addr % 4 * 8)) as u8
    }

    fn mmio_read_u16(&mut self, addr: u64) -> u16 {
        (self.mmio_read_u32(addr & !3) >> (addr % 4 * 8)) as u16
    }

    fn mmio_read_u32(&mut self, addr: u64) -> u32 {
        self.registers.get(&addr).copied().unwrap_or(u32::MAX)
    }

    fn mmio_write_u8(&mut self, addr: u64, value: u8) {
        let shift = addr % 4 * 8;
        let rest = self.mmio_read_u32(addr & !3) & !(0xff << shift);
        self.mmio_write_u32(addr & !3, rest | u32::from(value) << shift);
    }

    fn mmio_write_u16(&mut self, addr: u64, value: u16) {
        let shift = addr % 4 * 8;
        let rest = self.mmio_read_u32(addr & !3) & !(0xffff << shift);
        self.mmio_write_u32(addr & !3, rest | u32::from(value) << shift);
    }

    fn mmio_write_u32(&mut self, addr: u64, value: u32) {
        self.registers.insert(addr, value);
    }
}
