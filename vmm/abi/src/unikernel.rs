//! How Jiffy's firmware enters a plain ELF64 file, so that a unikernel needs no boot code of its own.
//!
//! The file is for x86-64, has neither a Multiboot header nor a PVH note (or is asked for by
//! [`crate::firmware::PROTOCOL`]), and its `PT_LOAD` segments have physical addresses equal to the virtual ones. Those
//! of an `ET_EXEC` file are from 1 MiB to 4 GiB, in RAM. An `ET_DYN` file without an interpreter, which
//! compilers call a static PIE, is moved by a multiple of [`ALIGN`] to the lowest place where there is room, and its
//! relocations, all of them `R_X86_64_RELATIVE` with addends, are done. The file is entered at `e_entry` in this state:
//!
//! | | |
//! |-|-|
//! | RDI | physical address of a [`crate::pvh::StartInfo`] |
//! | RSI | [`MAGIC`] |
//! | RSP | a null return address is there; 16-byte aligned but for this, as after a call, and [`STACK_LEN`] bytes down from it are the stack's |
//! | other general registers | 0 |
//! | RFLAGS | 2: interrupts off, direction flag clear |
//! | CS | [`CODE_SELECTOR`], 64-bit code |
//! | SS, DS, ES, FS, GS | [`DATA_SELECTOR`], flat data; the bases of FS and GS are 0 |
//! | CR0 | PE, MP, ET, NE, WP, PG |
//! | CR4 | PAE, OSFXSR, OSXMMEXCPT: SSE can be used |
//! | EFER | LME, LMA |
//! | MXCSR, x87 | as after reset: 0x1f80, 0x0040 |
//! | IDT | limit 0; there is no TSS |
//! | memory | the first 4 GiB are mapped to themselves, writable and executable |
//!
//! GDT, page tables, stack, start info, command line, memory map and the list of modules lie below 1 MiB, which the
//! memory map calls reserved as a whole. Modules lie in RAM above.

/// Position-independent files are moved by multiples of this.
pub const ALIGN: u64 = 2 << 20;
/// In RSI: "JIF1".
pub const MAGIC: u64 = u32::from_le_bytes(*b"JIF1") as u64;
/// In CS.
pub const CODE_SELECTOR: u16 = 0x10;
/// In the other segment registers.
pub const DATA_SELECTOR: u16 = 0x18;
/// Bytes of the stack.
pub const STACK_LEN: u64 = 64 << 10;
