//! QEMU's log of accesses to devices (its trace events `memory_region_ops_*`): ports and MMIO alike.

use std::io::BufRead;

use anyhow::{Context, Result};
use serde::Serialize;

/// Accesses before the payload's first, each of which is an exit under KVM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Accesses {
    /// All but those of the next field.
    pub accesses: u64,
    /// To BARs, and to windows and bus numbers of bridges.
    pub bar_accesses: u64,
}

/// Counts up to the first access to the device by which the payload speaks.
pub(super) fn read(log: impl BufRead) -> Result<Accesses> {
    let mut accesses = Accesses::default();
    let mut address = 0;
    for line in log.lines() {
        let line = line?;
        let Some(access) = Access::parse(&line).with_context(|| format!("QEMU's log: {line}"))? else {
            continue;
        };
        if access.device == "isa-debugcon" {
            break;
        }
        if access.device == "pci-conf-idx" {
            address = access.value;
        }
        let register = match access.device {
            "pci-conf-idx" | "pci-conf-data" => Some(address & 0xfc),
            "pcie-mmcfg-mmio" => Some(access.addr & 0xffc),
            _ => None,
        };
        let count =
            if register.is_some_and(is_bar) { &mut accesses.bar_accesses } else { &mut accesses.accesses };
        *count += 1;
    }
    Ok(accesses)
}

/// Base address registers of a device; of a bridge its bus numbers and windows (PCI 3.0, 6.1; bridges 1.2, 3.2).
fn is_bar(register: u64) -> bool {
    matches!(register, 0x10..=0x2c | 0x30)
}

/// A guest's access.
struct Access<'a> {
    addr: u64,
    value: u64,
    device: &'a str,
}

impl<'a> Access<'a> {
    /// `memory_region_ops_write cpu 0 mr 0x55 addr 0xcf8 value 0x80000000 size 4 name 'pci-conf-idx'`; None for what
    /// no processor did, and for other lines.
    fn parse(line: &'a str) -> Result<Option<Self>> {
        let Some((fields, name)) = line.split_once(" name ") else { return Ok(None) };
        let words: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |name: &str| {
            let at = words.iter().position(|&word| word == name).with_context(|| format!("no {name}"))?;
            words.get(at + 1).copied().with_context(|| format!("no value of {name}"))
        };
        if field("cpu")?.starts_with('-') {
            return Ok(None);
        }
        let hex =
            |name| Ok::<_, anyhow::Error>(u64::from_str_radix(field(name)?.trim_start_matches("0x"), 16)?);
        Ok(Some(Self { addr: hex("addr")?, value: hex("value")?, device: name.trim_matches('\'') }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_counted_apart() {
        let log = "\
memory_region_ops_write cpu -1 mr 0x1 addr 0xfee00000 value 0x0 size 4 name 'apic-msi'
memory_region_ops_write cpu 0 mr 0x1 addr 0xcf8 value 0x80000000 size 4 name 'pci-conf-idx'
memory_region_ops_read cpu 0 mr 0x2 addr 0xcfc value 0x29c08086 size 4 name 'pci-conf-data'
memory_region_ops_write cpu 0 mr 0x1 addr 0xcf8 value 0x80000810 size 4 name 'pci-conf-idx'
memory_region_ops_write cpu 0 mr 0x2 addr 0xcfc value 0xffffffff size 4 name 'pci-conf-data'
memory_region_ops_read cpu 0 mr 0x3 addr 0x8030 value 0x0 size 4 name 'pcie-mmcfg-mmio'
memory_region_ops_read cpu 0 mr 0x3 addr 0x8000 value 0x0 size 4 name 'pcie-mmcfg-mmio'
memory_region_ops_write cpu 0 mr 0x4 addr 0xe9 value 0x1 size 1 name 'isa-debugcon'
memory_region_ops_write cpu 0 mr 0x5 addr 0xf4 value 0x1 size 1 name 'isa-debug-exit'
";
        assert_eq!(read(log.as_bytes()).expect("a log"), Accesses { accesses: 3, bar_accesses: 3 });
        assert!(read(&b"memory_region_ops_read cpu 0 name 'x'"[..]).is_err());
    }
}
