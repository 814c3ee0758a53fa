//! Which addresses devices and bridges get.
//!
//! From the farthest bus inwards, what a bus needs becomes a window of its bridge; then, from the root outwards, all
//! get their addresses, the largest first, so that nothing is lost between them.

use abi::layout::Range;

use super::config::{Access, Function};
use super::scan::{Resource, Target};
use super::{Error, Space, Topology, Windows};
use crate::machine::Machine;
use crate::memory_map::FOUR_GIB;

/// Windows of bridges are of whole MiB, or of 4 KiB of ports (PCI-to-PCI Bridge 1.2, 3.2.5).
const MEMORY_STEP: u64 = 1 << 20;
const IO_STEP: u64 = 4 << 10;
const IO_BASE: u8 = 0x1c;
const MEMORY_BASE: u8 = 0x20;
const PREFETCHABLE_BASE: u8 = 0x24;
const PREFETCHABLE_BASE_HIGH: u8 = 0x28;
const PREFETCHABLE_LIMIT_HIGH: u8 = 0x2c;
const IO_HIGH: u8 = 0x30;

/// Gives addresses to all that need them.
#[inline(never)]
pub fn assign(
    machine: &mut impl Machine,
    access: Access,
    topology: &mut Topology,
    windows: &Windows,
) -> Result<(), Error> {
    for bus in (1..topology.buses.len()).rev() {
        let Some(bridge) = topology.buses[bus].bridge else { continue };
        for space in Space::ALL {
            if let Some(window) = window(topology, bus as u8, space) {
                let window = Resource { function: bridge.function, bus: bridge.bus, ..window };
                topology.add(window)?;
            }
        }
    }
    root(machine, access, topology, windows)?;
    for bus in 1..topology.buses.len() {
        let windows = topology.buses[bus].windows;
        if let Some(bridge) = topology.buses[bus].bridge {
            open(machine, access, bridge.function, &windows);
        }
        for space in Space::ALL {
            let Some(mut left) = windows[space as usize] else { continue };
            for i in 0..topology.resources.len() {
                let resource = topology.resources[i];
                if usize::from(resource.bus) == bus && resource.space == space {
                    let at = take(&mut left, &resource).ok_or_else(|| none_left(&resource))?;
                    set(machine, access, topology, &resource, at);
                }
            }
        }
    }
    Ok(())
}

/// What a bus needs of a space, as its bridge's window; `None` if nothing.
fn window(topology: &Topology, bus: u8, space: Space) -> Option<Resource> {
    let step = if space == Space::Io { IO_STEP } else { MEMORY_STEP };
    let mut needed = topology.resources.iter().filter(|it| it.bus == bus && it.space == space);
    let first = needed.next()?;
    let start = Resource { target: Target::Window(bus), align: first.align.max(step), ..*first };
    let end = |from: u64, it: &Resource| from.next_multiple_of(it.align).saturating_add(it.size);
    let whole = needed.fold(Resource { size: end(0, first), ..start }, |window, it| Resource {
        size: end(window.size, it),
        wide: window.wide && it.wide,
        ..window
    });
    // Of memory, only the prefetchable window has addresses of 64 bits.
    let wide = whole.wide && space == Space::Prefetchable;
    Some(Resource { size: whole.size.next_multiple_of(step), wide, ..whole })
}

/// Gives addresses to all on the root bus: those first that need them below 4 GiB.
fn root(
    machine: &mut impl Machine,
    access: Access,
    topology: &mut Topology,
    windows: &Windows,
) -> Result<(), Error> {
    let Windows { mut io, mut low, mut high } = *windows;
    for wide in [false, true] {
        for i in 0..topology.resources.len() {
            let resource = topology.resources[i];
            if resource.bus != 0 || resource.wide != wide {
                continue;
            }
            let at = match resource.space {
                Space::Io => match &mut io {
                    Some(io) => take(io, &resource),
                    None => continue,
                },
                _ => match take(&mut low, &resource) {
                    None if wide => take(&mut high, &resource),
                    at => at,
                },
            };
            set(machine, access, topology, &resource, at.ok_or_else(|| none_left(&resource))?);
        }
    }
    Ok(())
}

/// Takes addresses from the start of what is left.
fn take(left: &mut Range, resource: &Resource) -> Option<u64> {
    let start = left.start.checked_next_multiple_of(resource.align)?;
    let end = start.checked_add(resource.size).filter(|&end| end <= left.end())?;
    *left = Range { start: end, len: left.end() - end };
    Some(start)
}

fn none_left(resource: &Resource) -> Error {
    let what = match resource.space {
        Space::Io => "ports",
        Space::Memory => "memory",
        Space::Prefetchable => "prefetchable memory",
    };
    Error::Addresses {
        what,
        bus: resource.bus,
        kib: resource.size.div_ceil(1024).min(u32::MAX.into()) as u32,
    }
}

fn set(machine: &mut impl Machine, access: Access, topology: &mut Topology, resource: &Resource, at: u64) {
    match resource.target {
        Target::Register(register) => {
            access.write_u32(machine, resource.function, register, at as u32);
            if resource.wide {
                access.write_u32(machine, resource.function, register + 4, (at >> 32) as u32);
            }
        }
        Target::Window(bus) => {
            topology.buses[usize::from(bus)].windows[resource.space as usize] =
                Some(Range::new(at, at + resource.size));
        }
    }
}

/// Sets a bridge's windows; those without addresses are closed, with a base above their limit.
fn open(machine: &mut impl Machine, access: Access, bridge: Function, windows: &[Option<Range>; 3]) {
    let [io, memory, prefetchable] = windows;
    let bits =
        |window: &Option<Range>, closed: (u64, u64)| window.map_or(closed, |it| (it.start, it.end() - 1));
    let (base, limit) = bits(io, (0xf000, 0x0fff));
    let io = u16::from_le_bytes([(base >> 8) as u8 & 0xf0, (limit >> 8) as u8 & 0xf0]);
    access.write_u16(machine, bridge, IO_BASE, io);
    access.write_u32(machine, bridge, IO_HIGH, 0);
    let halves = |(base, limit): (u64, u64)| (base as u32 >> 16 & 0xfff0) | (limit as u32 & 0xfff0_0000);
    let closed = (FOUR_GIB - 1, 0xf_ffff);
    access.write_u32(machine, bridge, MEMORY_BASE, halves(bits(memory, closed)));
    let (base, limit) = bits(prefetchable, closed);
    access.write_u32(machine, bridge, PREFETCHABLE_BASE, halves((base, limit)));
    access.write_u32(machine, bridge, PREFETCHABLE_BASE_HIGH, (base >> 32) as u32);
    access.write_u32(machine, bridge, PREFETCHABLE_LIMIT_HIGH, (limit >> 32) as u32);
}
