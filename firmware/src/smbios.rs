//! Step 5: SMBIOS, where the VMM offers it (DMTF DSP0134, 5.2): structures, and an entry point that systems look for.

use abi::e820::Kind;

use crate::acpi::sum::sum;
use crate::error::Error;
use crate::f_segment::FSegment;
use crate::fw_cfg::{Files, FwCfg};
use crate::machine::Machine;
use crate::memory_map::MemoryMap;

/// The longest entry point.
const ANCHOR_MAX: u32 = 32;
const PAGE: u64 = 4096;

/// The entry point of 32 bits: "_SM_", then checksum and length; from offset 16 on a part with its own checksum.
mod sm {
    pub const ANCHOR: &[u8] = b"_SM_";
    pub const CHECKSUM: u64 = 4;
    pub const INTERMEDIATE: u64 = 16;
    pub const INTERMEDIATE_CHECKSUM: u64 = 21;
    pub const ADDRESS: u64 = 24;
    pub const LEN: u32 = 31;
}

/// The entry point of 64 bits: "_SM3_", then checksum and length.
mod sm3 {
    pub const ANCHOR: &[u8] = b"_SM3_";
    pub const CHECKSUM: u64 = 5;
    pub const ADDRESS: u64 = 16;
    pub const LEN: u32 = 24;
}

/// Puts both in place. What is no entry point, or does not fit, is left out: nothing needs it to boot.
#[inline(never)]
pub fn install(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    files: &Files,
    map: &mut MemoryMap,
    f_segment: &mut FSegment,
) -> Result<(), Error> {
    let (Some(anchor), Some(tables)) = (files.smbios_anchor, files.smbios_tables) else { return Ok(()) };
    if anchor.size > ANCHOR_MAX || tables.size == 0 {
        return Ok(());
    }
    let Some(at) = f_segment.take(anchor.size.into(), 16) else { return Ok(()) };
    let len = u64::from(tables.size).next_multiple_of(PAGE);
    let Some(address) = map.reserve_top(len, PAGE, Kind::RESERVED)? else { return Ok(()) };
    fw_cfg.read(machine, tables.select, 0, address, tables.size)?;
    fw_cfg.read(machine, anchor.select, 0, at, anchor.size)?;
    let bytes = machine.bytes(at, anchor.size as usize);
    if bytes.starts_with(sm::ANCHOR) && anchor.size >= sm::LEN {
        machine.write(at + sm::ADDRESS, address as u32);
        let from = at + sm::INTERMEDIATE;
        correct(machine, from, u64::from(sm::LEN) - sm::INTERMEDIATE, at + sm::INTERMEDIATE_CHECKSUM);
        correct(machine, at, sm::LEN.into(), at + sm::CHECKSUM);
    } else if bytes.starts_with(sm3::ANCHOR) && anchor.size >= sm3::LEN {
        machine.write(at + sm3::ADDRESS, address);
        correct(machine, at, sm3::LEN.into(), at + sm3::CHECKSUM);
    }
    Ok(())
}

/// Makes the sum of a range 0 by one of its bytes.
pub fn correct(machine: &mut impl Machine, from: u64, len: u64, byte: u64) {
    let sum = sum(machine.bytes(from, len as usize));
    machine.write(byte, machine.read::<u8>(byte).wrapping_sub(sum));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    fn installed(anchor: &[u8]) -> Fake {
        let mut fake = Fake::with_ram(4 << 20);
        fake.add_file("etc/smbios/smbios-anchor", anchor);
        fake.add_file("etc/smbios/smbios-tables", b"structures");
        let mut fw_cfg = FwCfg::detect(&mut fake).expect("a device");
        let files = fw_cfg.directory(&mut fake).expect("a directory");
        let mut map = MemoryMap::default();
        crate::memory_map::read(&mut fake, &fw_cfg, &files, &mut map).expect("a map");
        install(&mut fake, &fw_cfg, &files, &mut map, &mut FSegment::default()).expect("no errors");
        fake
    }

    #[test]
    fn an_entry_point_of_32_bits() {
        let mut anchor = [0; 31];
        anchor[..4].copy_from_slice(b"_SM_");
        anchor[16..21].copy_from_slice(b"_DMI_");
        let fake = installed(&anchor);
        let at = crate::places::TABLES.start;
        assert_eq!((sum(fake.bytes(at, 31)), sum(fake.bytes(at + 16, 15))), (0, 0));
        let address: u32 = fake.read(at + 24);
        assert_eq!(fake.memory[address as usize..][..10], *b"structures");
    }

    #[test]
    fn an_entry_point_of_64_bits() {
        let mut anchor = [0; 24];
        anchor[..5].copy_from_slice(b"_SM3_");
        let fake = installed(&anchor);
        let at = crate::places::TABLES.start;
        assert_eq!(sum(fake.bytes(at, 24)), 0);
        let address: u64 = fake.read(at + 16);
        assert_eq!(fake.memory[address as usize..][..10], *b"structures");
    }

    #[test]
    fn what_is_none_is_left_alone() {
        installed(b"_SM_");
        installed(&[0; 31]);
        installed(&[0; 100]);
    }
}
