//! PCI devices of any kind behind bridges: their addresses are apart, aligned and let through, or there is an error.
#![no_main]

use abi::layout::Range;
use firmware::fake::Fake;
use firmware::fake::pci::{Function, Pci};
use firmware::pci::config::Access;
use firmware::pci::{Topology, Windows, assign, scan};
use libfuzzer_sys::fuzz_target;

/// Low bits of a base address register: ports, memory, prefetchable, and both of 64 bits.
const KINDS: [u32; 5] = [1, 0, 0b1000, 0b0100, 0b1100];

fuzz_target!(|data: &[u8]| {
    let mut functions = Vec::new();
    // Four bytes a function: what it is and where, and three registers. Few, since every bus is asked for 32 devices.
    for (i, [what, bars @ ..]) in data.as_chunks::<4>().0.iter().take(8).enumerate() {
        let bridges: Vec<_> = (0..i).filter(|&i| bridge(data[i * 4])).take(3).collect();
        let behind = usize::from(what & 0x3f).checked_sub(1).filter(|_| !bridges.is_empty());
        let behind = behind.map(|n| bridges[n % bridges.len()]);
        let index = (i as u8) << 3;
        let mut function = if bridge(*what) && bridges.len() < 3 {
            Function::bridge(behind, index)
        } else {
            Function::device(behind, index)
        };
        for (n, bar) in bars.iter().take(if bridge(*what) { 1 } else { 3 }).enumerate() {
            let kind = KINDS[usize::from(bar & 7) % KINDS.len()];
            let size = 1u64 << if kind == 1 { 4 + (bar >> 3 & 7) } else { 7 + (bar >> 3) };
            if bar & 7 != 7 && size < 1 << 32 {
                function = function.bar(n * 2, kind, size);
            }
        }
        functions.push(function);
    }
    let mut machine = Fake { pci: Some(Pci::new(functions)), ..Fake::with_ram(0) };
    let windows = Windows {
        io: Some(Range::new(0xc000, 0x1_0000)),
        low: Range::new(0xc000_0000, 0xfec0_0000),
        high: Range::new(1 << 32, 1 << 40),
    };
    let mut topology = Topology { has_lines: true, ..Topology::default() };
    let done = scan::scan(&mut machine, Access::Ports, &mut topology)
        .and_then(|()| assign::assign(&mut machine, Access::Ports, &mut topology, &windows));
    if done.is_ok() {
        machine.pci.as_ref().expect("a bus").check();
    }
    #[cfg(feature = "planted")]
    fuzz::plant(&[done.is_err(), topology.buses.len() == 3]);
});

fn bridge(what: u8) -> bool {
    what & 0xc0 == 0xc0
}
