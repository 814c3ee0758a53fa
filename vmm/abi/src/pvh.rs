//! What a kernel that is entered by the x86/HVM direct boot ABI is given (Xen,
//! `xen/include/public/arch-x86/hvm/start_info.h`), and a unikernel of ours too.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Type of the ELF note that holds a kernel's 32-bit entry (Xen, `public/elfnote.h`: `XEN_ELFNOTE_PHYS32_ENTRY`).
pub const PHYS32_ENTRY: u32 = 18;
/// Name of that note, with its NUL.
pub const NOTE_NAME: [u8; 4] = *b"Xen\0";
/// [`StartInfo::magic`].
pub const MAGIC: u32 = 0x336e_c578;
/// [`StartInfo::version`], the first with a memory map.
pub const VERSION: u32 = 1;

/// `hvm_start_info`. All addresses are physical; 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// None are defined.
    pub flags: u32,
    /// Length of the list of modules.
    pub nr_modules: u32,
    /// Of [`Module`]s.
    pub modlist_paddr: u64,
    /// Of a string with NUL.
    pub cmdline_paddr: u64,
    /// Of the RSDP.
    pub rsdp_paddr: u64,
    /// Of [`MemoryRange`]s.
    pub memmap_paddr: u64,
    /// Length of the memory map.
    pub memmap_entries: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<StartInfo>() == 56);

/// `hvm_modlist_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Module {
    /// Where it is.
    pub paddr: u64,
    /// Its bytes.
    pub size: u64,
    /// Of a string with NUL.
    pub cmdline_paddr: u64,
    /// 0.
    pub reserved: u64,
}

const _: () = assert!(size_of::<Module>() == 32);

/// `hvm_memmap_table_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRange {
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// As in [`crate::e820::Kind`].
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<MemoryRange>() == 24);
