//! Linux's boot protocol (Linux, `Documentation/arch/x86/boot.rst`): setup sectors and a kernel, entered in 64-bit mode,
//! in protected mode, or in real mode at the setup code.

use abi::e820;
use abi::firmware::Protocol;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use super::info::Info;
use super::modules::Module;
use super::{Boot, Error, Source};
use crate::error;
use crate::handover::Entry;
use crate::machine::Machine;
use crate::memory_map::FOUR_GIB;
use crate::places::{HEAD, SETUP, STACK, ZERO_PAGE};

/// Where the setup header starts, in the file and in `boot_params`.
pub const HEADER: usize = 0x1f1;
/// `setup_header`, as of protocol 2.15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetupHeader {
    /// Setup sectors behind the first; 0 stands for 4.
    pub setup_sects: u8,
    root_flags: le::U16,
    /// The kernel's bytes in units of 16.
    pub syssize: le::U32,
    ram_size: le::U16,
    vid_mode: le::U16,
    root_dev: le::U16,
    boot_flag: le::U16,
    /// `jmp` over the header; its second byte is the header's length from 0x202 on.
    jump: [u8; 2],
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// The protocol's version, major in the high byte.
    pub version: le::U16,
    realmode_swtch: le::U32,
    start_sys_seg: le::U16,
    kernel_version: le::U16,
    /// Which loader this is.
    pub type_of_loader: u8,
    /// See [`LOADED_HIGH`], [`CAN_USE_HEAP`].
    pub loadflags: u8,
    setup_move_size: le::U16,
    /// Where the kernel is, for the setup code.
    pub code32_start: le::U32,
    /// Where the initrd is.
    pub ramdisk_image: le::U32,
    /// Its bytes.
    pub ramdisk_size: le::U32,
    bootsect_kludge: le::U32,
    /// End of the setup code's heap, from the start of setup less 0x200.
    pub heap_end_ptr: le::U16,
    ext_loader_ver: u8,
    ext_loader_type: u8,
    /// Where the command line is.
    pub cmd_line_ptr: le::U32,
    /// Highest address of the initrd's last byte.
    pub initrd_addr_max: le::U32,
    /// The kernel runs at a multiple of this.
    pub kernel_alignment: le::U32,
    /// Whether it runs elsewhere than at [`Self::pref_address`].
    pub relocatable_kernel: u8,
    min_alignment: u8,
    /// See [`KERNEL_64`].
    pub xloadflags: le::U16,
    /// Longest command line, without NUL.
    pub cmdline_size: le::U32,
    hardware_subarch: le::U32,
    hardware_subarch_data: le::U64,
    payload_offset: le::U32,
    payload_length: le::U32,
    setup_data: le::U64,
    /// Where it likes to run.
    pub pref_address: le::U64,
    /// What it needs from there on.
    pub init_size: le::U32,
    handover_offset: le::U32,
    kernel_info_offset: le::U32,
}

const _: () = assert!(HEADER + size_of::<SetupHeader>() == 0x26c);

/// [`SetupHeader::magic`].
pub const MAGIC: [u8; 4] = *b"HdrS";
/// [`SetupHeader::loadflags`]: the kernel goes to 1 MiB.
pub const LOADED_HIGH: u8 = 1 << 0;
/// [`SetupHeader::loadflags`]: [`SetupHeader::heap_end_ptr`] counts.
pub const CAN_USE_HEAP: u8 = 1 << 7;
/// [`SetupHeader::xloadflags`]: there is a 64-bit entry, 0x200 behind the start.
pub const KERNEL_64: u16 = 1 << 0;
/// [`SetupHeader::type_of_loader`]: one without a number.
const LOADER: u8 = 0xff;
const SECTOR: u32 = 512;
/// Where a kernel is loaded that is not told otherwise.
const HIGH: u64 = 0x10_0000;
/// The protocol that has [`SetupHeader::init_size`].
const INIT_SIZE: u16 = 0x020a;
/// [`SetupHeader::initrd_addr_max`] before protocol 2.03.
const INITRD_ADDR_MAX: u32 = 0x37ff_ffff;
/// The setup code's stack and heap end here, from the start of setup; above is room for old versions' stack.
const HEAP_END: u16 = 0xe000;
const ENTRY_64: u64 = 0x200;
/// Fields of `boot_params`.
mod zero_page {
    pub const ACPI_RSDP_ADDR: u64 = 0x70;
    pub const E820_ENTRIES: u64 = 0x1e8;
    pub const E820_TABLE: u64 = 0x2d0;
    pub const E820_END: u64 = 0xcd0;
}

impl SetupHeader {
    /// From a file's first bytes; `None` if it is no kernel of this protocol.
    #[must_use]
    pub fn find(head: &[u8]) -> Option<Self> {
        let (mut header, _) = Self::read_from_prefix(head.get(HEADER..)?).ok()?;
        if header.magic != MAGIC {
            return None;
        }
        // What is behind the header is code.
        let version = header.version.get();
        if version < 0x0203 {
            header.initrd_addr_max = INITRD_ADDR_MAX.into();
        }
        if version < 0x0204 {
            // Two bytes, and the others something else.
            header.syssize = 0.into();
        }
        if version < 0x0205 {
            header.relocatable_kernel = 0;
        }
        if version < 0x0206 {
            header.cmdline_size = 255.into();
        }
        if version < INIT_SIZE {
            (header.pref_address, header.init_size) = (HIGH.into(), 0.into());
        }
        if version < 0x020c {
            header.xloadflags = 0.into();
        }
        Some(header)
    }

    /// Bytes of the setup sectors.
    #[must_use]
    pub fn setup_len(&self) -> u32 {
        let sectors = if self.setup_sects == 0 { 4 } else { u32::from(self.setup_sects) };
        (sectors + 1) * SECTOR
    }

    fn has(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Linux64 => self.xloadflags.get() & KERNEL_64 != 0,
            Protocol::Linux32 => self.loadflags & LOADED_HIGH != 0,
            _ => protocol == Protocol::Linux16,
        }
    }

    /// How the kernel is entered if nobody asks for a way. What has an old header starts in real mode, as it did with
    /// loaders of its time: it does not say how much memory it needs, and much of it (iPXE, memdisk) is no Linux at all,
    /// and has no other entry.
    fn protocol(&self) -> Protocol {
        match (self.has(Protocol::Linux64), self.version.get()) {
            (true, _) => Protocol::Linux64,
            (_, INIT_SIZE..) => Protocol::Linux32,
            _ => Protocol::Linux16,
        }
    }
}

/// A kernel's parts, where they come from.
pub struct Image {
    /// The setup sectors.
    pub setup: Source,
    /// The kernel behind them.
    pub kernel: Source,
    /// Where it has to go, if that is decided.
    pub addr: Option<u64>,
}

/// Loads a kernel whose first bytes are at [`HEAD`].
#[inline(never)]
pub fn load<M: Machine>(
    boot: &mut Boot<M>,
    image: &Image,
    mut header: SetupHeader,
) -> Result<Entry, error::Error> {
    let protocol = boot.protocol.unwrap_or_else(|| header.protocol());
    if !header.has(protocol) {
        return Err(Error::NoEntry { protocol }.into());
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(Error::LowKernel.into());
    }
    if header.version.get() < 0x0202 {
        return Err(Error::OldKernel { version: header.version.get() }.into());
    }
    // The last unit may be a part of one.
    if image.kernel.len.div_ceil(16) < header.syssize.get() {
        return Err(Error::Truncated { len: image.kernel.len }.into());
    }
    let kernel = place(boot, image, &header)?;
    boot.fw_cfg.read(boot.machine, image.kernel.item, image.kernel.offset, kernel, image.kernel.len)?;
    if boot.cmdline.len > header.cmdline_size.get() && header.cmdline_size.get() != 0 {
        return Err(Error::CommandLine { len: boot.cmdline.len, max: header.cmdline_size.get() }.into());
    }
    let cmdline = boot.load_cmdline(&mut Info::default())?;
    let initrd = initrd(boot, header.initrd_addr_max.get())?;
    header.type_of_loader = LOADER;
    header.code32_start = (kernel as u32).into();
    header.cmd_line_ptr = (cmdline as u32).into();
    (header.ramdisk_image, header.ramdisk_size) = ((initrd.0 as u32).into(), (initrd.1 as u32).into());
    if protocol == Protocol::Linux16 {
        return real_mode(boot, image, header);
    }
    zero_page(boot, &header);
    let zero_page = ZERO_PAGE.start;
    Ok(match protocol {
        Protocol::Linux64 => {
            // More than the protocol asks for: kernels looked at ACPI tables before they had page tables of their own.
            boot.machine.map(0, boot.map.end_below(FOUR_GIB));
            Entry::Long { rip: kernel + ENTRY_64, rdi: 0, rsi: zero_page, rsp: STACK.end() }
        }
        _ => Entry::Protected { eip: kernel as u32, eax: 0, ebx: 0, esi: zero_page as u32 },
    })
}

/// Finds the kernel its place, and keeps others out of where it will run.
#[inline(never)]
fn place<M: Machine>(boot: &mut Boot<M>, image: &Image, header: &SetupHeader) -> Result<u64, error::Error> {
    let len = u64::from(image.kernel.len);
    let relocatable = header.relocatable_kernel != 0;
    let addr = image.addr.unwrap_or(if relocatable { HIGH } else { header.pref_address.get() });
    // A kernel that can run elsewhere moves up to where it likes to run, or to the next multiple of its alignment.
    let align = u64::from(header.kernel_alignment.get()).max(1);
    let run = if relocatable {
        addr.max(header.pref_address.get()).checked_next_multiple_of(align)
    } else {
        Some(header.pref_address.get())
    };
    let does_not_fit = Error::Room { start: addr };
    let run_end = run.and_then(|run| run.checked_add(header.init_size.get().into())).ok_or(does_not_fit)?;
    let start = addr.min(run.unwrap_or(addr));
    let end = addr.checked_add(len).ok_or(does_not_fit)?.max(run_end);
    // One range, so that nothing is put between.
    if end > FOUR_GIB || !boot.map.take(start, end) {
        return Err(does_not_fit.into());
    }
    Ok(addr)
}

/// All modules, one behind the other; address and length.
#[inline(never)]
fn initrd<M: Machine>(boot: &mut Boot<M>, addr_max: u32) -> Result<(u64, u64), error::Error> {
    let padded = |module: &Module| u64::from(module.len).next_multiple_of(4);
    let len: u64 = boot.modules.iter().map(padded).sum();
    if len == 0 {
        return Ok((0, 0));
    }
    let taken = boot.map.take_top(len.next_multiple_of(4096), 4096, u64::from(addr_max) + 1);
    let start = taken.ok_or(Error::Modules { len })?;
    let (mut to, mut end) = (start, start);
    for i in 0..boot.modules.len() {
        let module = boot.modules[i];
        module.load(boot, to)?;
        end = to + u64::from(module.len);
        to += padded(&module);
        if to > end {
            boot.machine.map(end, to - end);
            boot.machine.clear(end, (to - end) as usize);
        }
    }
    Ok((start, end - start))
}

#[inline(never)]
fn zero_page<M: Machine>(boot: &mut Boot<M>, header: &SetupHeader) {
    let (machine, page) = (&mut *boot.machine, ZERO_PAGE.start);
    // Of the memory map's table only what is written is read.
    machine.clear(page, zero_page::E820_TABLE as usize);
    machine.clear(page + zero_page::E820_END, (ZERO_PAGE.len - zero_page::E820_END) as usize);
    // Of the header only what the kernel has of it: up to where its jump leads.
    let len = (0x202 - HEADER + usize::from(header.jump[1])).min(size_of::<SetupHeader>());
    machine.write_bytes(page + HEADER as u64, header.as_bytes().get(..len).unwrap_or_default());
    machine.write(page + zero_page::ACPI_RSDP_ADDR, boot.rsdp.unwrap_or(0));
    let areas = boot.map.areas();
    machine.write(page + zero_page::E820_ENTRIES, areas.len() as u8);
    for (i, area) in areas.iter().enumerate() {
        let entry =
            e820::Entry { addr: area.start.into(), size: (area.end - area.start).into(), kind: area.kind };
        machine.write(page + zero_page::E820_TABLE + (i * size_of::<e820::Entry>()) as u64, entry);
    }
}

/// The setup code with the header as it is to see it.
#[inline(never)]
fn real_mode<M: Machine>(
    boot: &mut Boot<M>,
    image: &Image,
    mut header: SetupHeader,
) -> Result<Entry, error::Error> {
    let len = header.setup_len().min(image.setup.len);
    if len > u32::from(HEAP_END) - 0x1000 {
        return Err(Error::Setup { len }.into());
    }
    boot.fw_cfg.read(boot.machine, image.setup.item, image.setup.offset, SETUP.start, len)?;
    header.loadflags |= CAN_USE_HEAP;
    header.heap_end_ptr = (HEAP_END - 0x200).into();
    let header_len = (0x202 - HEADER + usize::from(header.jump[1])).min(size_of::<SetupHeader>());
    let bytes = header.as_bytes().get(..header_len).unwrap_or_default();
    boot.machine.write_bytes(SETUP.start + HEADER as u64, bytes);
    boot.offer_bios()?;
    let segment = (SETUP.start >> 4) as u16;
    Ok(Entry::Real { cs: segment + 0x20, ip: 0, ds: segment, sp: HEAP_END })
}

/// The bytes of [`HEAD`] that tell a kernel of this protocol.
pub const HEAD_LEN: usize = HEADER + size_of::<SetupHeader>();
const _: () = assert!(HEAD_LEN as u64 <= HEAD.len && HEAD_LEN <= abi::bundle::SETUP_LEN);
