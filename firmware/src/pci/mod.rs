//! Step 3: PCI, where there is a bus: bus numbers, addresses, interrupt lines.

pub mod assign;
pub mod chipset;
pub mod config;
pub mod generic;
pub mod scan;

use abi::e820::Kind;
use abi::layout::{PCI_ECAM, Range};
use arrayvec::ArrayVec;
use thiserror::Error;

use crate::error;
use crate::fw_cfg::{Files, FwCfg};
use crate::machine::Machine;
use crate::memory_map::{FOUR_GIB, MemoryMap};
use chipset::Chipset;
use config::{Access, Function};

/// What cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Bridges in excess.
    #[error("more than {} buses", scan::BUSES_MAX)]
    Buses,
    /// Devices in excess.
    #[error("more than {} base address registers and windows of bridges", scan::RESOURCES_MAX)]
    Resources,
    /// No addresses are left.
    #[error("no addresses are left for {what} of {kib} KiB on bus {bus}")]
    Addresses {
        /// Of which kind.
        what: &'static str,
        /// Its bus.
        bus: u8,
        /// KiB, rounded up.
        kib: u32,
    },
}

/// What a base address register or a bridge's window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Ports.
    Io,
    /// Memory.
    Memory,
    /// Memory whose reads have no effect, which bridges have a window of its own for.
    Prefetchable,
}

impl Space {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Io, Self::Memory, Self::Prefetchable];
}

/// Addresses that devices may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Ports; none on machines without.
    pub io: Option<Range>,
    /// Memory below 4 GiB.
    pub low: Range,
    /// Memory above RAM.
    pub high: Range,
}

/// Ports that no device of the chipset has.
const IO: Range = Range::new(0xc000, 0x1_0000);
/// Where memory of devices ends, below the IOAPIC.
const LOW_END: u64 = 0xfec0_0000;
/// Where it begins on machines without configuration space in memory, and in any case not before RAM ends.
const LOW_START: u64 = 0xc000_0000;
const GIB: u64 = 1 << 30;
/// Bytes above RAM that devices may have.
const HIGH_LEN: u64 = 512 * GIB;

/// Sets all devices up; how many buses have interrupt lines.
#[inline(never)]
pub fn set_up(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    files: &Files,
    chipset: Chipset,
    map: &mut MemoryMap,
) -> Result<u8, error::Error> {
    if chipset == Chipset::None {
        set_up_generic(machine, fw_cfg, files, map)?;
        return Ok(0);
    }
    let access = chipset.access(machine);
    if let Some(ecam) = chipset.ecam() {
        map.set(ecam.start, ecam.end(), Kind::RESERVED)?;
    }
    scan::map_bus(machine, access, 0);
    chipset.set_up(machine, access);
    let reserved_end = match files.reserved_memory_end {
        Some(file) => fw_cfg.number_u64(machine, file.select)?,
        None => 0,
    };
    let windows = Windows { io: Some(IO), low: low(map), high: high(map, reserved_end) };
    let mut topology = Topology { has_lines: true, ..Topology::default() };
    scan::scan(machine, access, &mut topology)?;
    assign::assign(machine, access, &mut topology, &windows)?;
    route(machine, access, chipset, &topology);
    Ok(topology.buses.len() as u8)
}

/// Sets the devices of a host bridge up that has no chipset around it.
#[inline(never)]
fn set_up_generic(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    files: &Files,
    map: &mut MemoryMap,
) -> Result<(), error::Error> {
    let Some(windows) = generic::find(machine, fw_cfg, files)? else { return Ok(()) };
    map.set(PCI_ECAM.start, PCI_ECAM.end(), Kind::RESERVED)?;
    give_addresses(machine, &windows)
}

/// With a stack frame of its own, which is large.
#[inline(never)]
fn give_addresses(machine: &mut impl Machine, windows: &Windows) -> Result<(), error::Error> {
    let mut topology = Topology::default();
    scan::scan(machine, generic::ACCESS, &mut topology)?;
    Ok(assign::assign(machine, generic::ACCESS, &mut topology, windows)?)
}

/// Below 4 GiB, behind RAM and configuration space.
fn low(map: &MemoryMap) -> Range {
    Range::new(map.end_below(LOW_END).max(LOW_START), LOW_END)
}

/// Above RAM and what the VMM keeps for more of it, up to whatever is next.
fn high(map: &MemoryMap, reserved_end: u64) -> Range {
    let ram = map.areas().iter().rev().find(|area| area.kind == Kind::RAM);
    let start = ram.map_or(0, |area| area.end).max(reserved_end).max(FOUR_GIB).next_multiple_of(GIB);
    let next = map.areas().iter().map(|area| area.start).find(|&next| next > start);
    Range::new(start, next.unwrap_or(start + HIGH_LEN))
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// All buses, by number.
    pub buses: ArrayVec<scan::Bus, { scan::BUSES_MAX }>,
    /// What needs addresses, the largest first.
    pub resources: ArrayVec<scan::Resource, { scan::RESOURCES_MAX }>,
    /// Whether pins lead to interrupt lines.
    pub has_lines: bool,
    /// Functions with an interrupt pin, if they do.
    pub pins: ArrayVec<Pin, { scan::RESOURCES_MAX }>,
}

impl Topology {
    /// Puts something that needs addresses where it belongs.
    #[inline(never)]
    fn add(&mut self, resource: scan::Resource) -> Result<(), Error> {
        let at = self.resources.iter().position(|it| it.align < resource.align);
        let at = at.unwrap_or(self.resources.len());
        self.resources.try_insert(at, resource).map_err(|_| Error::Resources)
    }
}

/// A function with an interrupt pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    function: Function,
    bus: u8,
    /// From 0 for A.
    pin: u8,
}

/// Tells all functions their interrupt lines.
fn route(machine: &mut impl Machine, access: Access, chipset: Chipset, topology: &Topology) {
    const LINE: u8 = 0x3c;
    for &Pin { function, bus, mut pin } in &topology.pins {
        let (mut device, mut bus) = (function.device(), bus);
        // A bridge turns pins by the device that they are of (PCI-to-PCI Bridge 1.2, 9.1).
        while let Some(bridge) = topology.buses.get(usize::from(bus)).and_then(|bus| bus.bridge) {
            pin = (pin + device) & 3;
            (device, bus) = (bridge.function.device(), bridge.bus);
        }
        access.write_u8(machine, function, LINE, chipset.line(device, pin));
    }
}

#[cfg(test)]
mod tests;
