//! Which devices there are (PCI Local Bus 3.0, 6.1 and 6.2; PCI-to-PCI Bridge 1.2, 3.2).

use abi::layout::Range;

use super::config::{Access, Function};
use super::{Error, Pin, Space, Topology};
use crate::machine::Machine;

/// The most buses.
pub const BUSES_MAX: usize = 64;
/// The most base address registers and windows of bridges.
pub const RESOURCES_MAX: usize = 256;

const ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0e;
const BAR_0: u8 = 0x10;
const BUS_NUMBERS: u8 = 0x18;
const INTERRUPT_PIN: u8 = 0x3d;
const NOBODY: u32 = u32::MAX;
const MULTIFUNCTION: u8 = 1 << 7;
const BRIDGE: u8 = 1;
const MEMORY_64: u32 = 0b10 << 1;
const PREFETCHABLE: u32 = 1 << 3;
const IO: u32 = 1;
/// [`COMMAND`]: ports, memory; of bridges, their own reads and writes as well.
const DECODE: u16 = 0b11;
const BUS_MASTER: u16 = 1 << 2;
/// An IDE controller (class 1, subclass 1); bits 0 and 2 of its interface: a channel has registers of its own.
const IDE: u32 = 0x0101;

/// A bridge, and the bus that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bridge.
    pub function: Function,
    /// The number of its bus.
    pub bus: u8,
}

/// A bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bus {
    /// What leads to it; nothing to the first.
    pub bridge: Option<Bridge>,
    /// The addresses of each [`Space`] that its bridge lets through.
    pub windows: [Option<Range>; 3],
}

/// Something that needs addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Whose.
    pub function: Function,
    /// The number of its bus.
    pub bus: u8,
    /// A base address register, or the bus that a bridge's window is for.
    pub target: Target,
    /// For what.
    pub space: Space,
    /// Whether it can be above 4 GiB.
    pub wide: bool,
    /// How many.
    pub size: u64,
    /// At a multiple of this.
    pub align: u64,
}

/// What of a function needs addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A base address register.
    Register(u8),
    /// A bridge's window to the bus of this number.
    Window(u8),
}

/// Finds all functions, numbers the buses, and asks how many addresses are needed.
#[inline(never)]
pub fn scan(machine: &mut impl Machine, access: Access, topology: &mut Topology) -> Result<(), Error> {
    topology.buses.push(Bus { bridge: None, windows: [None; 3] });
    // The way down to the bus that is being looked at, and where on each bus to go on.
    let mut path = arrayvec::ArrayVec::<(u8, u16), BUSES_MAX>::new();
    path.push((0, 0));
    while let Some((bus, next)) = path.pop() {
        let Some((found, next)) = next_bridge(machine, access, topology, bus, next)? else {
            finish_bus(machine, access, topology, bus);
            continue;
        };
        let number = topology.buses.len() as u8;
        let bridge = Bridge { function: found, bus };
        topology
            .buses
            .try_push(Bus { bridge: Some(bridge), windows: [None; 3] })
            .map_err(|_| Error::Buses)?;
        // While it is being looked for, everything may be behind this bridge.
        let numbers = u32::from_le_bytes([bus, number, 0xff, 0]);
        access.write_u32(machine, found, BUS_NUMBERS, numbers);
        map_bus(machine, access, number);
        path.push((bus, next));
        path.push((number, 0));
    }
    Ok(())
}

/// Makes a bus's configuration space reachable; [`scan`] does that for all buses but the first.
pub fn map_bus(machine: &mut impl Machine, access: Access, bus: u8) {
    const BUS_LEN: u64 = 1 << 20;
    if let Access::Memory(base) = access {
        machine.map(base + u64::from(bus) * BUS_LEN, BUS_LEN);
    }
}

/// Behind which numbers a bridge's buses end is known when all were found.
fn finish_bus(machine: &mut impl Machine, access: Access, topology: &Topology, bus: u8) {
    const SUBORDINATE: u8 = BUS_NUMBERS + 2;
    if let Some(bridge) = topology.buses.get(usize::from(bus)).and_then(|bus| bus.bridge) {
        access.write_u8(machine, bridge.function, SUBORDINATE, topology.buses.len() as u8 - 1);
    }
}

/// Takes in functions of a bus from index `from` on, up to a bridge; it, and the index to go on from.
fn next_bridge(
    machine: &mut impl Machine,
    access: Access,
    topology: &mut Topology,
    bus: u8,
    from: u16,
) -> Result<Option<(Function, u16)>, Error> {
    let mut next = from;
    while let Ok(index) = u8::try_from(next) {
        let function = Function::of_index(bus, index);
        let there = access.read_u32(machine, function, ID) != NOBODY;
        let header = if there { access.read_u8(machine, function, HEADER_TYPE) } else { 0 };
        // Without a first function there is no device, and only one that says so has more than that.
        let single = index & 7 == 0 && header & MULTIFUNCTION == 0;
        next += if single { 8 } else { 1 };
        if there {
            let is_bridge = header & !MULTIFUNCTION == BRIDGE;
            take_in(machine, access, topology, bus, function, is_bridge)?;
            if is_bridge {
                return Ok(Some((function, next)));
            }
        }
    }
    Ok(None)
}

fn take_in(
    machine: &mut impl Machine,
    access: Access,
    topology: &mut Topology,
    bus: u8,
    function: Function,
    is_bridge: bool,
) -> Result<(), Error> {
    // Where there are no lines to be told of, nobody asks.
    let pin = if topology.has_lines { access.read_u8(machine, function, INTERRUPT_PIN) } else { 0 };
    if let 1..=4 = pin {
        topology.pins.try_push(Pin { function, bus, pin: pin - 1 }).map_err(|_| Error::Resources)?;
    }
    let class = access.read_u32(machine, function, CLASS);
    let bars = if is_bridge { 2 } else { 6 };
    // An IDE controller with ports of the PC has registers for them that count for nothing.
    let first = if class >> 16 == IDE && class & 0x500 == 0 { 4 } else { 0 };
    let mut register = BAR_0 + first * 4;
    while register < BAR_0 + bars * 4 {
        let Some(resource) = measure(machine, access, bus, function, register) else {
            register += 4;
            continue;
        };
        register += if resource.wide { 8 } else { 4 };
        topology.add(resource)?;
    }
    access.write_u16(machine, function, COMMAND, if is_bridge { DECODE | BUS_MASTER } else { DECODE });
    Ok(())
}

/// Asks a register how many addresses it needs (PCI Local Bus 3.0, 6.2.5.1).
fn measure(
    machine: &mut impl Machine,
    access: Access,
    bus: u8,
    function: Function,
    register: u8,
) -> Option<Resource> {
    access.write_u32(machine, function, register, u32::MAX);
    let low = access.read_u32(machine, function, register);
    if low == 0 {
        return None;
    }
    let (space, wide, size) = if low & IO != 0 {
        // The upper half may be hard-wired to 0.
        (Space::Io, false, u64::from((!(low & !0b11) & 0xffff).wrapping_add(1)))
    } else {
        let wide = low & 0b110 == MEMORY_64 && register < BAR_0 + 5 * 4;
        let high = if wide {
            access.write_u32(machine, function, register + 4, u32::MAX);
            access.read_u32(machine, function, register + 4)
        } else {
            u32::MAX
        };
        let mask = u64::from(high) << 32 | u64::from(low & !0b1111);
        let space = if low & PREFETCHABLE != 0 { Space::Prefetchable } else { Space::Memory };
        (space, wide, (!mask).wrapping_add(1))
    };
    // What is no power of two is not how a register answers.
    let resource =
        Resource { function, bus, target: Target::Register(register), space, wide, size, align: size };
    (size.is_power_of_two() && size < 1 << 48).then_some(resource)
}
