//! A kernel that the VMM was given by `-kernel`, in items without a name (QEMU, `hw/i386/x86.c`: `x86_load_linux`):
//! a bzImage in two parts; an ELF kernel that the VMM has put into memory, to be entered by PVH; a Multiboot kernel that
//! the VMM has put together.

use abi::fw_cfg::key;

use super::{Boot, Error, Source, linux, multiboot1, pvh};
use crate::error;
use crate::fw_cfg::Files;
use crate::handover::Entry;
use crate::machine::Machine;
use crate::places::HEAD;

/// Loads it.
#[inline(never)]
pub fn load<M: Machine>(boot: &mut Boot<M>, files: &Files, initrd: u32) -> Result<Entry, error::Error> {
    let len = boot.fw_cfg.number(boot.machine, key::KERNEL_SIZE)?;
    if len == 0 {
        return Err(error::Error::NothingToBoot);
    }
    let addr = boot.fw_cfg.number(boot.machine, key::KERNEL_ADDR)?.into();
    let setup = boot.fw_cfg.number(boot.machine, key::SETUP_SIZE)?;
    if setup == 0 {
        return multiboot1::load_prepared(boot, addr, len, initrd);
    }
    boot.set_cmdline(files.cmdline)?;
    boot.set_modules(files, initrd)?;
    let at = boot.fw_cfg.fetch(boot.machine, key::SETUP_DATA, 0, HEAD.start, linux::HEAD_LEN as u32)?;
    let head = boot.machine.bytes(at, linux::HEAD_LEN);
    if let Some(header) = linux::SetupHeader::find(head) {
        let image = linux::Image {
            setup: Source { item: key::SETUP_DATA, offset: 0, len: setup },
            kernel: Source { item: key::KERNEL_DATA, offset: 0, len },
            addr: Some(addr),
        };
        return linux::load(boot, &image, header);
    }
    if !head.starts_with(&super::elf::MAGIC) {
        return Err(Error::Unknown.into());
    }
    pvh::load_prepared(boot, addr, len)
}
