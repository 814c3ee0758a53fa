//! Configuration space of a function with a BAR in memory and one of ports (PCI Local Bus 3.0, 6.1 and 6.2).

use abi::layout::Range;

/// Bytes of configuration space that a function without extended capabilities has.
pub const LEN: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CAPABILITIES: usize = 0x34;
const BAR0: usize = 0x10;
const BAR1: usize = 0x14;
/// In a BAR: it is one of I/O ports.
const IS_PORTS: u32 = 1 << 0;
/// Where the first capability is: right after the header.
const FIRST_CAPABILITY: usize = 0x40;
/// Command: decoding of ports and of memory, bus master, interrupt disable.
const PORTS: u16 = 1 << 0;
const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;
/// Status: there is a list of capabilities.
const HAS_CAPABILITIES: u16 = 1 << 4;

/// Who made a function, and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass, programming interface, from the highest byte down.
    pub class: u32,
    /// Vendor of the card.
    pub subsystem_vendor: u16,
    /// The card.
    pub subsystem: u16,
}

/// What a BAR is in; also its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Guest-physical addresses.
    Memory,
    /// I/O ports.
    Ports,
}

/// Where the BARs are to be; lengths are powers of two.
#[derive(Clone, Copy, Debug)]
pub struct Bars {
    /// Below 4 GiB.
    pub memory: Range,
    /// 256 at most (6.2.5.1); a function may have none.
    pub ports: Option<Range>,
}

/// The bytes, and which of their bits a guest may write.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    /// Where the link to the next capability is, and where that will be.
    link: usize,
    next: usize,
    lens: [u64; 2],
}

impl ConfigSpace {
    /// A function whose BARs are assigned and decoded from the start, as a firmware would leave them.
    #[must_use]
    pub fn new(identity: &Identity, bars: Bars) -> Self {
        let Bars { memory, ports } = bars;
        let Identity { vendor, device, revision, class, subsystem_vendor, subsystem } = *identity;
        let (bytes, writable) = ([0; LEN], [0; LEN]);
        let (link, next, lens) =
            (CAPABILITIES, FIRST_CAPABILITY, [memory.len, ports.map_or(0, |ports| ports.len)]);
        let mut space = Self { bytes, writable, link, next, lens };
        space.set(0x00, &vendor.to_le_bytes());
        space.set(0x02, &device.to_le_bytes());
        space.set(0x08, &(class << 8 | u32::from(revision)).to_le_bytes());
        space.set(0x2c, &subsystem_vendor.to_le_bytes());
        space.set(0x2e, &subsystem.to_le_bytes());
        let decoding = if ports.is_some() { PORTS | MEMORY } else { MEMORY };
        space.set(COMMAND, &(decoding | BUS_MASTER).to_le_bytes());
        space.allow(COMMAND, &(decoding | BUS_MASTER | INTERRUPT_DISABLE).to_le_bytes());
        // A 32-bit, non-prefetchable BAR: its low bits are all zero.
        space.set(BAR0, &(memory.start as u32).to_le_bytes());
        space.allow(BAR0, &(!(memory.len as u32 - 1)).to_le_bytes());
        if let Some(ports) = ports {
            // Ports have 16 bits on this machine, which the upper half may say (6.2.5.1).
            space.set(BAR1, &(ports.start as u32 | IS_PORTS).to_le_bytes());
            space.allow(BAR1, &(!(ports.len as u16 - 1)).to_le_bytes());
        }
        // Interrupt line: a scratch byte.
        space.allow(0x3c, &[0xff]);
        space
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets a guest write the bits of `mask` from offset `at` on.
    pub fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Appends a capability, and returns its offset; `body` is what follows the link.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.next;
        self.bytes[self.link] = at as u8;
        self.bytes[at] = id;
        self.set(at + 2, body);
        self.set(STATUS, &HAS_CAPABILITIES.to_le_bytes());
        (self.link, self.next) = (at + 1, (at + 2 + body.len()).next_multiple_of(4));
        at
    }

    /// Reads; what is beyond the end is left as it is.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..LEN) {
            *byte = self.bytes[at];
        }
    }

    /// Writes what may be written.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (byte, at) in data.iter().zip(usize::from(offset)..LEN) {
            self.bytes[at] = self.bytes[at] & !self.writable[at] | byte & self.writable[at];
        }
    }

    /// The two bytes at `at`.
    #[must_use]
    pub fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// The four bytes at `at`.
    #[must_use]
    pub fn dword(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    /// Where a BAR is, if it is decoded.
    #[must_use]
    pub fn bar(&self, space: Space) -> Option<Range> {
        let (decoding, at) = match space {
            Space::Memory => (MEMORY, BAR0),
            Space::Ports => (PORTS, BAR1),
        };
        let start = u64::from(self.dword(at) & !IS_PORTS);
        (self.word(COMMAND) & decoding != 0).then(|| Range { start, len: self.lens[space as usize] })
    }

    /// The bytes, for saved state.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes those bits back from [`ConfigSpace::bytes`] that a guest could have written.
    pub fn restore(&mut self, bytes: &[u8]) {
        self.write(0, bytes);
    }
}
