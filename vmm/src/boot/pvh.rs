//! What a kernel finds at its PVH entry (Xen, `docs/misc/pvh.pandoc`, "x86/HVM direct boot ABI"): 32-bit protected
//! mode without paging, EBX pointing to `hvm_start_info`.

use abi::layout;
use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

use super::place::MemoryWrite;
use super::{Arguments, BootCpu};

/// The first version with a memory map.
const VERSION: u32 = 1;

/// The memory and the registers for a kernel that is entered at `entry`.
pub fn prepare(entry: u32, arguments: &Arguments) -> (Vec<MemoryWrite>, BootCpu) {
    let start = layout::PVH_START_INFO.start;
    let modules: Vec<_> = arguments
        .initrd
        .map(|initrd| hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() })
        .into_iter()
        .collect();
    let modlist = start + size_of::<hvm_start_info>() as u64;
    let memmap = modlist + size_of_val(&modules[..]) as u64;
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { modlist },
        cmdline_paddr: layout::CMDLINE.start,
        rsdp_paddr: arguments.rsdp.unwrap_or(0),
        memmap_paddr: memmap,
        memmap_entries: arguments.e820.len() as u32,
        ..Default::default()
    };
    let mut bytes = info.as_slice().to_vec();
    for module in &modules {
        bytes.extend_from_slice(module.as_slice());
    }
    for entry in &arguments.e820 {
        let (addr, size, type_) = (entry.range.start, entry.range.len, entry.kind as u32);
        bytes.extend_from_slice(hvm_memmap_table_entry { addr, size, type_, reserved: 0 }.as_slice());
    }
    let writes = vec![MemoryWrite::bytes(start, bytes), arguments.cmdline_write()];
    (writes, BootCpu::Protected { eip: entry, ebx: start as u32 })
}
