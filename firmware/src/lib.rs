//! The ROM, as a library that also builds on the host. `boot` is its table of contents.
#![no_std]

#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod acpi;
pub mod bios;
pub mod error;
pub mod f_segment;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod fw_cfg;
pub mod handover;
pub mod low_memory;
pub mod machine;
pub mod memory_map;
pub mod mp_table;
pub mod payload;
pub mod pci;
pub mod places;
pub mod power;
pub mod serial;
pub mod smbios;

use core::fmt::{self, Write};

use abi::firmware::Code;
use abi::timeline::Mark;

use error::Error;
use f_segment::FSegment;
use fw_cfg::FwCfg;
use handover::Entry;
use machine::Machine;
use memory_map::MemoryMap;
use pci::chipset::Chipset;
use power::Vmm;
use serial::Serial;

/// Prepares the payload; `None` if there is nothing more to do but wait for the machine's end.
pub fn main(machine: &mut impl Machine) -> Option<Entry> {
    run(machine, Vmm::detect)
}

/// What [`main`] does; `vmm` says which VMM this is, where it matters.
pub fn run(machine: &mut impl Machine, vmm: impl FnOnce() -> Vmm) -> Option<Entry> {
    match boot(machine) {
        Ok(entry) => Some(entry),
        Err(error) => {
            say(machine, &error);
            power::off(machine, vmm(), error.code());
            None
        }
    }
}

/// From a machine out of reset to a payload.
fn boot(machine: &mut impl Machine) -> Result<Entry, Error> {
    let mut fw_cfg = FwCfg::detect(machine)?;
    let files = fw_cfg.directory(machine)?;
    let chipset = if fw_cfg.is_jiffys() { Chipset::None } else { Chipset::detect(machine) };
    chipset.open_f_segment(machine);
    // Large values stay where they are: moving them would take longer than filling them.
    let mut map = MemoryMap::default();
    let mut f_segment = FSegment::default();
    memory_map::read(machine, &fw_cfg, &files, &mut map)?;
    // Before the tables, which the VMM makes when they are read: they say where devices are. Jiffy has them set up.
    let mut buses = 0;
    if !fw_cfg.is_jiffys() {
        buses = pci::set_up(machine, &fw_cfg, &files, chipset, &mut map)?;
    }
    let rsdp = acpi::install(machine, &fw_cfg, &files, &mut map, &mut f_segment)?;
    if files.smbios_anchor.is_some() {
        smbios::install(machine, &fw_cfg, &files, &mut map, &mut f_segment)?;
    }
    if rsdp.is_none() {
        mp_table::install(machine, &fw_cfg, &mut f_segment, chipset, buses)?;
    }
    low_memory::write(machine);
    let (entry, bios_services) = payload::load(machine, fw_cfg, &mut map, rsdp, &files)?;
    if bios_services {
        bios::install(machine, &map);
    }
    if let Entry::Real { cs, ip, ds, sp } = entry {
        bios::prepare_entry(machine, cs, ip, ds, sp);
    }
    if fw_cfg.is_jiffys() {
        machine.out_u8(abi::ports::TIMELINE, Mark::FIRMWARE_END.0);
    }
    Ok(entry)
}

/// Says where the ROM panicked, and ends the machine.
pub fn panicked(machine: &mut impl Machine, info: &dyn fmt::Display) {
    say(machine, info);
    power::off(machine, Vmm::detect(), Code::PANICKED);
}

#[inline(never)]
fn say(machine: &mut impl Machine, line: &dyn fmt::Display) {
    // Writing to the port does not fail: without a UART the bytes go nowhere.
    let _ = write!(Serial::new(machine), "jiffy-firmware: {line}\r\n");
}

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Access, Fake};
    use abi::fw_cfg::key;
    use std::string::String;

    /// The line that it ended with, the code, and what it wrote to ports that are not the UART's.
    fn ends(mut fake: Fake, vmm: Vmm) -> (String, Option<u8>, Fake) {
        assert_eq!(run(&mut fake, || vmm), None);
        let code = fake.log.iter().find_map(|access| match *access {
            Access::U8(abi::ports::DEBUG_EXIT, code) => Some(code),
            _ => None,
        });
        (fake.serial_output(), code, fake)
    }

    #[test]
    fn under_jiffy_it_powers_off() {
        let fake = Fake { fw_cfg: None, ..Fake::with_ram(4 << 20) };
        let (line, code, fake) = ends(fake, Vmm::Jiffy);
        assert_eq!(line, "jiffy-firmware: there is no fw_cfg device at port 0x510\r\n");
        assert_eq!(code, Some(Code::NO_FW_CFG.0));
        assert!(
            fake.log.contains(&Access::U8(0x600, 0x34)),
            "sleep control: S5 (5) in bits 4:2, SLP_EN in bit 5"
        );
    }

    #[test]
    fn elsewhere_it_leaves_jiffys_ports_alone() {
        let (_, _, fake) = ends(Fake::with_ram(4 << 20), Vmm::Other);
        let jiffys = abi::ports::JIFFY..abi::ports::JIFFY + abi::ports::JIFFY_LEN;
        assert!(!fake.log.iter().any(|access| jiffys.contains(&access.port()) || access.port() == 0x600));
    }

    #[test]
    fn without_a_kernel_it_says_so() {
        let (line, code, _) = ends(Fake::with_ram(4 << 20), Vmm::Other);
        assert!(line.contains("nothing to boot") && line.ends_with("opt/jiffy/kernel\r\n"), "{line}");
        assert_eq!((line.lines().count(), code), (1, Some(Code::NOTHING_TO_BOOT.0)));
    }

    #[test]
    fn without_dma_it_reads_byte_by_byte() {
        let mut fake = Fake::with_ram(4 << 20);
        fake.fw_cfg.as_mut().expect("a device").dma = false;
        let (_, code, _) = ends(fake, Vmm::Other);
        assert_eq!(code, Some(Code::NOTHING_TO_BOOT.0));
    }

    #[test]
    fn a_kernel_that_the_vmm_has_loaded_is_entered() {
        let mut fake = Fake::with_ram(4 << 20);
        for (item, number) in
            [(key::KERNEL_SIZE, 4096), (key::KERNEL_ADDR, 0x20_0000), (key::SETUP_SIZE, 8192)]
        {
            fake.set_item(item, &u32::to_le_bytes(number));
        }
        fake.set_item(key::KERNEL_ENTRY, &0x20_0010_u32.to_le_bytes());
        fake.set_item(key::SETUP_DATA, b"\x7fELF");
        fake.set_item(key::CMDLINE_SIZE, &6_u32.to_le_bytes());
        fake.set_item(key::CMDLINE_DATA, b"quiet\0");
        let entered = run(&mut fake, || Vmm::Other);
        let Some(Entry::Protected { eip: 0x20_0010, eax: 0, ebx, esi: 0 }) = entered else {
            panic!("{entered:x?}: {}", fake.serial_output());
        };
        let info: abi::pvh::StartInfo = fake.read(ebx.into());
        assert_eq!((info.magic, info.version, info.memmap_entries), (abi::pvh::MAGIC, 1, 4));
        assert_eq!(fake.bytes(info.cmdline_paddr, 6), b"quiet\0");
        assert_eq!(fake.serial_output(), "");
    }

    #[test]
    fn a_panic_is_told_and_has_its_own_code() {
        let mut fake = Fake::with_uart();
        panicked(&mut fake, &"out of luck");
        assert_eq!(fake.serial_output(), "jiffy-firmware: out of luck\r\n");
        assert!(fake.log.contains(&Access::U8(0xf4, Code::PANICKED.0)));
    }
}
