//! PCI devices without hardware: configuration space that answers as devices do.

use std::vec::Vec;

const ID: usize = 0;
const CLASS: usize = 2;
const HEADER: usize = 3;
const BAR_0: usize = 4;
const BUS_NUMBERS: usize = 6;
const INTERRUPT: usize = 15;

/// A function's configuration space.
#[derive(Clone, Debug)]
pub struct Function {
    /// The index of the bridge that it is behind; `None` on the root bus.
    pub behind: Option<usize>,
    /// Device and function.
    pub index: u8,
    config: [u32; 16],
    writable: [u32; 16],
}

impl Function {
    /// A device without anything.
    #[must_use]
    pub fn device(behind: Option<usize>, index: u8) -> Self {
        let mut function = Self { behind, index, config: [0; 16], writable: [0; 16] };
        function.config[ID] = 0x1041_1af4;
        function.config[CLASS] = 0x0200_0000;
        function.config[INTERRUPT] = 1 << 8;
        function.writable[1] = 0xffff;
        function.writable[INTERRUPT] = 0xff;
        function
    }

    /// A bridge.
    #[must_use]
    pub fn bridge(behind: Option<usize>, index: u8) -> Self {
        let mut function = Self::device(behind, index);
        function.config[CLASS] = 0x0604_0000;
        function.config[HEADER] = 1 << 16;
        function.writable[BUS_NUMBERS..].fill(u32::MAX);
        function
    }

    /// The same with more functions.
    #[must_use]
    pub fn of_many(mut self) -> Self {
        self.config[HEADER] |= 0x80 << 16;
        self
    }

    /// Adds a base address register with these low bits, for `size` addresses, a power of two.
    #[must_use]
    pub fn bar(mut self, number: usize, kind: u32, size: u64) -> Self {
        let mask = !(size - 1);
        self.config[BAR_0 + number] = kind;
        self.writable[BAR_0 + number] = mask as u32 & if kind & 1 == 0 { !0xf } else { !3 };
        if kind & 0b111 == 0b100 {
            self.writable[BAR_0 + number + 1] = (mask >> 32) as u32;
        }
        self
    }

    /// Says who it is: vendor, and device in the upper half.
    pub fn set_id(&mut self, id: u32) {
        self.config[ID] = id;
    }

    /// Whether it is a bridge.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.config[HEADER] >> 16 & 0x7f == 1
    }

    fn secondary(&self) -> u8 {
        (self.config[BUS_NUMBERS] >> 8) as u8
    }
}

/// Configuration space, by ports.
#[derive(Clone, Debug, Default)]
pub struct Pci {
    /// All functions.
    pub functions: Vec<Function>,
    address: u32,
}

/// Addresses that something has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Ports, not memory.
    pub io: bool,
    /// First address.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// Whose.
    pub function: usize,
}

impl Pci {
    /// With these devices.
    #[must_use]
    pub fn new(functions: Vec<Function>) -> Self {
        Self { functions, address: 0 }
    }

    pub(super) fn select(&mut self, address: u32) {
        self.address = address;
    }

    fn selected(&mut self) -> Option<(&mut Function, usize)> {
        let (bus, index) = ((self.address >> 16) as u8, (self.address >> 8) as u8);
        // Most of the time nobody is there.
        let mut candidates = self.functions.iter().filter(|it| it.index == index).peekable();
        candidates.peek()?;
        let behind = match bus {
            0 => None,
            bus => Some(self.functions.iter().position(|it| it.is_bridge() && it.secondary() == bus)?),
        };
        let register = (self.address >> 2 & 0x3f) as usize;
        let mut functions = self.functions.iter_mut();
        functions.find(|it| it.behind == behind && it.index == index).map(|it| (it, register))
    }

    pub(super) fn read(&mut self) -> u32 {
        match self.selected() {
            Some((function, register)) => function.config.get(register).copied().unwrap_or(0),
            None => u32::MAX,
        }
    }

    pub(super) fn write(&mut self, value: u32) {
        if let Some((function, register)) = self.selected()
            && let Some(config) = function.config.get_mut(register)
        {
            let writable = function.writable[register];
            *config = *config & !writable | value & writable;
        }
    }

    /// What all base address registers hold.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (i, function) in self.functions.iter().enumerate() {
            let mut number = 0;
            while number < if function.is_bridge() { 2 } else { 6 } {
                let (low, mask) = (function.config[BAR_0 + number], function.writable[BAR_0 + number]);
                let io = low & 1 == 1;
                let wide = low & 0b111 == 0b100;
                let flags = if io { 3 } else { 0xf };
                let (mut start, mut mask) = (u64::from(low & !flags), u64::from(mask) | 0xffff_ffff << 32);
                if wide {
                    start |= u64::from(function.config[BAR_0 + number + 1]) << 32;
                    mask = mask & 0xffff_ffff | u64::from(function.writable[BAR_0 + number + 1]) << 32;
                }
                if function.writable[BAR_0 + number] != 0 || mask as u32 == 0 && wide {
                    claims.push(Claim { io, start, len: (!mask).wrapping_add(1), function: i });
                }
                number += if wide { 2 } else { 1 };
            }
        }
        claims
    }

    /// The ranges that a bridge lets through: ports, memory, prefetchable memory.
    #[must_use]
    pub fn windows(&self, bridge: usize) -> [core::ops::Range<u64>; 3] {
        let config = &self.functions[bridge].config;
        let [io, memory, prefetchable] = [config[7], config[8], config[9]];
        let halves = |word: u32| (u64::from(word & 0xfff0) << 16, u64::from(word & 0xfff0_0000) | 0xf_ffff);
        let (base, limit) = halves(prefetchable);
        let high = |word: u32| u64::from(word) << 32;
        let (memory_base, memory_limit) = halves(memory);
        [
            u64::from(io & 0xf0) << 8..(u64::from(io >> 8 & 0xf0) << 8 | 0xfff) + 1,
            memory_base..memory_limit + 1,
            base | high(config[10])..(limit | high(config[11])) + 1,
        ]
    }

    /// The interrupt line that a function was told.
    #[must_use]
    pub fn line(&self, function: usize) -> u8 {
        self.functions[function].config[INTERRUPT] as u8
    }

    /// Panics unless all addresses are aligned, apart from each other, and let through by all bridges on the way.
    pub fn check(&self) {
        let claims = self.claims();
        for (i, one) in claims.iter().enumerate() {
            assert!(one.start.is_multiple_of(one.len) && one.start > 0, "{one:x?} is not aligned");
            for other in &claims[..i] {
                let apart = one.start + one.len <= other.start || other.start + other.len <= one.start;
                assert!(apart || one.io != other.io, "{one:x?} and {other:x?}");
            }
            let mut behind = self.functions[one.function].behind;
            while let Some(bridge) = behind {
                let [io, memory, prefetchable] = self.windows(bridge);
                let inside = |window: &core::ops::Range<u64>| {
                    window.start <= one.start && one.start + one.len <= window.end
                };
                let through = if one.io { inside(&io) } else { inside(&memory) || inside(&prefetchable) };
                assert!(through, "{one:x?} is not let through by bridge {bridge}");
                behind = self.functions[bridge].behind;
            }
        }
    }
}
