//! The setup header of a `bzImage` (Linux, `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header").

use abi::layout::{HIGH_RAM_START, Range};
use linux_loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::error::KernelError;
use super::read::{ReadAt, read_vec};

/// Where the setup header starts, in the file and in the zero page.
const HEADER: usize = 0x1f1;
/// Where "HdrS" stands; the byte before gives the header's end, counted from here.
const MAGIC_AT: usize = 0x202;
/// Header with all fields up to `init_size`.
const MIN_HEADER_END: usize = 0x264;
/// Protocol 2.12, of Linux 3.8: the first with `xloadflags`.
const MIN_VERSION: u16 = 0x20c;
const BOOT_FLAG: u16 = 0xaa55;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
const SECTOR: u64 = 512;
/// The kernel's mapping of itself (Linux, `arch/x86/include/asm/page_64_types.h`: KERNEL_IMAGE_SIZE): no kernel
/// is larger, packed or unpacked.
pub const KERNEL_IMAGE_SIZE: u64 = 1 << 30;
/// Least alignment of a 64-bit kernel, for it maps itself with pages of this size.
pub const KERNEL_ALIGN: u64 = 2 << 20;

/// What matters of a `bzImage`.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// The setup header, as far as the file's own length byte says; zeros after that.
    pub setup: setup_header,
    /// The protected-mode code, which is what the 64-bit entry needs in memory: a range of the file.
    pub protected: Range,
    /// The packed kernel with the size trailer: a range of the file.
    pub payload: Range,
}

/// Whether a file that begins with `head` has a setup header.
#[must_use]
pub fn is_bzimage(head: &[u8]) -> bool {
    head.get(MAGIC_AT..MAGIC_AT + 4) == Some(b"HdrS")
}

impl BzImage {
    /// How much of the file's start [`Self::parse`] reads at most.
    pub const HEAD: usize = HEADER + size_of::<setup_header>();

    /// Parses and checks the setup header.
    pub fn parse<R: ReadAt + ?Sized>(source: &R) -> Result<Self, KernelError> {
        let size = source.size()?;
        let head = read_vec(source, size, "the setup header", 0, (Self::HEAD as u64).min(size))?;
        if !is_bzimage(&head) {
            return Err(KernelError::Unknown);
        }
        let end = MAGIC_AT + usize::from(head[MAGIC_AT - 1]);
        if end < MIN_HEADER_END {
            return Err(KernelError::No64Bit { why: "its setup header is too short" });
        }
        let end = end.min(Self::HEAD);
        let header = head.get(HEADER..end).ok_or(KernelError::Truncated {
            what: "the setup header",
            end: end as u64,
            size,
        })?;
        let mut setup = setup_header::default();
        setup.as_mut_slice()[..header.len()].copy_from_slice(header);
        check(&setup)?;
        let sectors = if setup.setup_sects == 0 { 4 } else { u64::from(setup.setup_sects) };
        let start = (sectors + 1) * SECTOR;
        if start >= size {
            return Err(KernelError::Truncated { what: "the real-mode code", end: start, size });
        }
        let payload =
            Range { start: start + u64::from(setup.payload_offset), len: u64::from(setup.payload_length) };
        if payload.len <= 4 {
            let why = "there is no packed kernel";
            return Err(KernelError::Field { field: "payload_length (0x24c)", value: payload.len, why });
        }
        if payload.end() > size {
            return Err(KernelError::Truncated { what: "the packed kernel", end: payload.end(), size });
        }
        let protected = Range { start, len: size - start };
        if protected.len > u64::from(setup.init_size) {
            let why = "less than the kernel itself";
            return Err(KernelError::Field {
                field: "init_size (0x260)",
                value: setup.init_size.into(),
                why,
            });
        }
        Ok(Self { setup, protected, payload })
    }

    /// Where the kernel goes in RAM of `low` bytes from address 0 on: where it prefers, else as low as it may.
    /// It has `init_size` bytes from there.
    pub fn load_range(&self, low: u64) -> Result<Range, KernelError> {
        let len = u64::from(self.setup.init_size);
        let preferred = Range { start: self.setup.pref_address, len };
        let fits = |range: &Range| range.start >= HIGH_RAM_START && range.end() <= low;
        let lowest = Range { start: HIGH_RAM_START.next_multiple_of(self.alignment()), len };
        let may_move = self.setup.relocatable_kernel != 0;
        let found = Some(preferred).filter(fits).or_else(|| Some(lowest).filter(|r| may_move && fits(r)));
        let need = if may_move { preferred.end().min(lowest.end()) } else { preferred.end() };
        found.ok_or(KernelError::Memory { need, have: low })
    }

    /// What its physical and virtual addresses have to be multiples of.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        u64::from(self.setup.kernel_alignment).max(KERNEL_ALIGN)
    }

    /// How long the payload is unpacked, as its last four bytes say.
    pub fn unpacked_len(&self, payload: &[u8]) -> Result<usize, KernelError> {
        let trailer = payload.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        // The kernel unpacks itself within `init_size` bytes.
        if trailer == 0 || trailer > self.setup.init_size {
            let field = "the size at the end of the payload";
            let why = "not within init_size";
            return Err(KernelError::Field { field, value: trailer.into(), why });
        }
        Ok(trailer as usize)
    }
}

/// Checks the fields that do not depend on the rest of the file.
fn check(setup: &setup_header) -> Result<(), KernelError> {
    let field = |field, value: u64, why| Err(KernelError::Field { field, value, why });
    let (version, alignment, init_size) = (setup.version, setup.kernel_alignment, setup.init_size);
    let preferred = setup.pref_address;
    if setup.boot_flag != BOOT_FLAG {
        return field("boot_flag (0x1fe)", setup.boot_flag.into(), "not 0xaa55");
    }
    if version < MIN_VERSION {
        return Err(KernelError::No64Bit { why: "its boot protocol is older than 2.12" });
    }
    if setup.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::No64Bit { why: "XLF_KERNEL_64 is not set in xloadflags" });
    }
    if setup.loadflags & LOADED_HIGH == 0 {
        return field("loadflags (0x211)", setup.loadflags.into(), "a zImage, which loads below 1 MiB");
    }
    if !alignment.is_power_of_two() || u64::from(alignment) > KERNEL_IMAGE_SIZE {
        return field("kernel_alignment (0x230)", alignment.into(), "not a power of two up to 1 GiB");
    }
    if u64::from(init_size) > KERNEL_IMAGE_SIZE {
        return field(
            "init_size (0x260)",
            init_size.into(),
            "more than the 1 GiB that a kernel maps of itself",
        );
    }
    if !preferred.is_multiple_of(alignment.into()) || preferred > u64::from(u32::MAX) {
        return field("pref_address (0x258)", preferred, "not a multiple of kernel_alignment below 4 GiB");
    }
    Ok(())
}
