//! Set-up of made-up machines.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::fake::Fake;
use crate::fake::pci::{Function, Pci};

const WIDE_PREFETCHABLE: u32 = 0b1100;
const WIDE: u32 = 0b0100;
const IO_PORTS: u32 = 1;

fn set_up(functions: Vec<Function>) -> (Fake, Result<(), Error>) {
    let mut fake = Fake::with_ram(4 << 20);
    fake.pci = Some(Pci::new(functions));
    let mut topology = Topology { has_lines: true, ..Topology::default() };
    let windows = Windows {
        io: Some(IO),
        low: Range::new(LOW_START, LOW_END),
        high: Range::new(FOUR_GIB, FOUR_GIB + HIGH_LEN),
    };
    let result = scan::scan(&mut fake, Access::Ports, &mut topology)
        .and_then(|()| assign::assign(&mut fake, Access::Ports, &mut topology, &windows));
    route(&mut fake, Access::Ports, Chipset::Q35, &topology);
    (fake, result)
}

fn pci(fake: &Fake) -> &Pci {
    fake.pci.as_ref().expect("a bus")
}

#[test]
fn all_kinds_of_registers_get_addresses() {
    let device = Function::device(None, 1 << 3)
        .bar(0, 0, 0x1000)
        .bar(1, IO_PORTS, 0x20)
        .bar(2, WIDE_PREFETCHABLE, 0x10_0000)
        .bar(4, WIDE, 0x4000);
    let (fake, result) = set_up(vec![device]);
    assert_eq!(result, Ok(()));
    pci(&fake).check();
    let starts: Vec<_> = pci(&fake).claims().iter().map(|claim| (claim.io, claim.start)).collect();
    let expected = [(false, 0xc000_0000), (true, 0xc000), (false, 0xc010_0000), (false, 0xc020_0000)];
    assert_eq!(starts, expected);
    assert_eq!(pci(&fake).line(0), chipset::LINES[1], "device 1, pin A");
}

#[test]
fn what_is_too_large_for_the_hole_goes_above_ram() {
    let device = Function::device(None, 8).bar(0, WIDE_PREFETCHABLE, 8 << 30).bar(2, 0, 1 << 28);
    let (fake, result) = set_up(vec![device]);
    assert_eq!(result, Ok(()));
    pci(&fake).check();
    assert_eq!(pci(&fake).claims()[0].start, 8 << 30);
}

#[test]
fn bridges_let_through_what_is_behind_them() {
    let functions = vec![
        Function::bridge(None, 1 << 3).of_many(),
        Function::bridge(None, 1 << 3 | 1).bar(0, 0, 0x1000),
        Function::bridge(Some(0), 0),
        Function::device(Some(2), 2 << 3).bar(0, 0, 0x2000).bar(1, IO_PORTS, 0x100),
        Function::device(Some(2), 3 << 3).bar(0, WIDE_PREFETCHABLE, 1 << 34),
        Function::device(Some(1), 0).bar(0, WIDE_PREFETCHABLE, 0x4000).bar(2, 0b1000, 0x1000),
    ];
    let (fake, result) = set_up(functions);
    assert_eq!(result, Ok(()));
    pci(&fake).check();
    assert!(pci(&fake).windows(0)[2].start >= FOUR_GIB, "all behind it is of 64 bits");
    assert!(pci(&fake).windows(1)[0].is_empty(), "there are no ports behind it");
}

#[test]
fn too_much_is_an_error() {
    let too_large = vec![Function::device(None, 8).bar(0, 0, 1 << 31)];
    assert_eq!(set_up(too_large).1, Err(Error::Addresses { what: "memory", bus: 0, kib: 2 << 20 }));
    let ports = (0..9).map(|i| Function::device(None, i << 3).bar(0, IO_PORTS, 0x800)).collect();
    assert_eq!(set_up(ports).1, Err(Error::Addresses { what: "ports", bus: 0, kib: 2 }));
    let buses = (0..64u8).map(|i| Function::bridge(i.checked_sub(1).map(usize::from), 0)).collect();
    assert_eq!(set_up(buses).1, Err(Error::Buses));
}
