//! Multiboot 2: a header of tags in the first 32 KiB of the file, and an answer of tags.

use abi::e820::Kind;
use thiserror::Error;
use zerocopy::{Immutable, IntoBytes};

use super::elf::Elf;
use super::info::Info;
use super::multiboot1::{Addresses, IMAGE_NAME, LOADER_NAME, memory_sizes};
use super::{Boot, Source};
use crate::error;
use crate::handover::Entry;
use crate::machine::Machine;
use crate::places::HEAD;

const MAGIC: u32 = 0xe852_50d6;
/// In EAX.
const LOADER_MAGIC: u32 = 0x36d7_6289;
/// Of the header: 32-bit protected mode of i386.
const I386: u32 = 0;
/// Of a header tag: the loader may ignore it.
const OPTIONAL: u16 = 1 << 0;

/// Types of header tags.
mod header_tag {
    pub const END: u16 = 0;
    pub const INFORMATION_REQUEST: u16 = 1;
    pub const ADDRESS: u16 = 2;
    pub const ENTRY_ADDRESS: u16 = 3;
    pub const CONSOLE_FLAGS: u16 = 4;
    pub const MODULE_ALIGNMENT: u16 = 6;
    /// This and the two behind it are about machines with EFI, of which this is none.
    pub const EFI_BOOT_SERVICES: u16 = 7;
    pub const ENTRY_ADDRESS_EFI64: u16 = 9;
    pub const RELOCATABLE: u16 = 10;
}

/// Types of information tags.
mod tag {
    pub const END: u32 = 0;
    pub const CMDLINE: u32 = 1;
    pub const LOADER_NAME: u32 = 2;
    pub const MODULE: u32 = 3;
    pub const MEMORY: u32 = 4;
    pub const MEMORY_MAP: u32 = 6;
    pub const ACPI_OLD: u32 = 14;
    pub const ACPI_NEW: u32 = 15;
    pub const LOAD_BASE: u32 = 21;
}

/// What is wrong with the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Magic, but nothing behind it that makes sense.
    #[error("the header at {0:#x} has a wrong checksum, is truncated, or has a malformed tag")]
    Header(u32),
    /// Not for i386.
    #[error("the header is for architecture {0}, not i386")]
    Architecture(u32),
    /// A tag that the kernel cannot do without.
    #[error("the header requires tag {0}, which there is not")]
    Tag(u16),
    /// An information tag that the kernel cannot do without.
    #[error("the header requires information of type {0}, which there is not")]
    Information(u32),
    /// Addresses that make no sense, or leave the file.
    #[error("the header's addresses are not in order, or not in the file")]
    Addresses,
}

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Its place in the file.
    pub offset: u32,
    /// Where the kernel goes, if it says so: header, load, end of load, end of zeros.
    pub address: Option<[u32; 4]>,
    /// Where the kernel starts, if it says so.
    pub entry: Option<u32>,
    /// How it can be moved, if it can.
    pub relocatable: Option<Relocatable>,
    /// Required information, a bit for each type below 32.
    pub information: u32,
}

/// How a kernel can be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocatable {
    /// Lowest address.
    pub min: u32,
    /// Highest address of the last byte.
    pub max: u32,
    /// Power of two.
    pub align: u32,
    /// 1: as low as possible; 2: as high as possible.
    pub preference: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

impl Header {
    /// Looks for a header.
    #[inline(never)]
    pub fn find(head: &[u8]) -> Result<Option<Self>, Error> {
        let quads = head.as_chunks::<8>().0;
        let found = quads.iter().position(|quad| quad.first_chunk() == Some(&MAGIC.to_le_bytes()));
        let Some(offset) = found.map(|at| at * 8) else { return Ok(None) };
        Self::parse(&head[offset..], offset as u32).map(Some)
    }

    fn parse(bytes: &[u8], offset: u32) -> Result<Self, Error> {
        let malformed = Error::Header(offset);
        let get = |at| word(bytes, at).ok_or(malformed);
        let (architecture, len, checksum) = (get(4)?, get(8)?, get(12)?);
        if MAGIC.wrapping_add(architecture).wrapping_add(len).wrapping_add(checksum) != 0 {
            return Err(malformed);
        }
        if architecture != I386 {
            return Err(Error::Architecture(architecture));
        }
        let bytes = bytes.get(..len as usize).ok_or(malformed)?;
        let mut header = Self { offset, ..Self::default() };
        let mut at = 16;
        loop {
            let start = word(bytes, at).ok_or(malformed)?;
            let size = word(bytes, at + 4).ok_or(malformed)? as usize;
            let (kind, flags) = (start as u16, (start >> 16) as u16);
            if kind == header_tag::END {
                return Ok(header);
            }
            let tag = at.checked_add(size).and_then(|end| bytes.get(at..end)).ok_or(malformed)?;
            if size < 8 {
                return Err(malformed);
            }
            header.tag(kind, flags & OPTIONAL != 0, tag).ok_or(malformed)??;
            at += size.next_multiple_of(8);
        }
    }

    /// Takes in a tag; `None` if it is too short.
    fn tag(&mut self, kind: u16, optional: bool, tag: &[u8]) -> Option<Result<(), Error>> {
        match kind {
            header_tag::INFORMATION_REQUEST if optional => {}
            header_tag::INFORMATION_REQUEST => {
                for at in (8..tag.len()).step_by(4) {
                    match word(tag, at)? {
                        kind @ 0..32 => self.information |= 1 << kind,
                        kind => return Some(Err(Error::Information(kind))),
                    }
                }
            }
            header_tag::ADDRESS => {
                self.address = Some([word(tag, 8)?, word(tag, 12)?, word(tag, 16)?, word(tag, 20)?]);
            }
            header_tag::ENTRY_ADDRESS => self.entry = Some(word(tag, 8)?),
            // Bit 0: a console must be there, and a serial port is none that this is about.
            header_tag::CONSOLE_FLAGS if optional || word(tag, 8)? & 1 == 0 => {}
            header_tag::MODULE_ALIGNMENT
            | header_tag::EFI_BOOT_SERVICES..=header_tag::ENTRY_ADDRESS_EFI64 => {}
            header_tag::RELOCATABLE => {
                let (min, max, align, preference) =
                    (word(tag, 8)?, word(tag, 12)?, word(tag, 16)?, word(tag, 20)?);
                if !align.is_power_of_two() {
                    return Some(Err(Error::Addresses));
                }
                self.relocatable = Some(Relocatable { min, max, align, preference });
            }
            _ if optional => {}
            _ => return Some(Err(Error::Tag(kind))),
        }
        Some(Ok(()))
    }
}

/// Loads a kernel.
#[inline(never)]
pub fn load<M: Machine>(boot: &mut Boot<M>, file: Source, header: &Header) -> Result<Entry, error::Error> {
    let wrong = |error: Error| error::Error::from(super::Error::from(error));
    boot.offer_bios()?;
    let (entry, start, moved, kernel_end);
    if let Some([header_addr, load, load_end, bss_end]) = header.address {
        let entry_addr = header.entry.ok_or(wrong(Error::Addresses))?;
        let addresses = Addresses { header: header_addr, load, load_end, bss_end, entry: entry_addr };
        let plan = addresses.plan(header.offset, file.len).map_err(|_| wrong(Error::Addresses))?;
        let to = place(boot, header, load, plan.mem_len.into())?;
        addresses.load(boot, file, &plan, to)?;
        (start, moved, kernel_end) = (load, to.wrapping_sub(load), u64::from(to) + u64::from(plan.mem_len));
        entry = entry_addr;
    } else {
        let head = boot.machine.bytes(HEAD.start, file.len.min(HEAD.len as u32) as usize);
        let elf = Elf::parse(head, file.len).map_err(super::Error::from)?;
        let extent = elf.extent();
        let to = place(boot, header, extent.start as u32, extent.len)?;
        (start, moved) = (extent.start as u32, to.wrapping_sub(extent.start as u32));
        elf.load(boot, file, u64::from(to).wrapping_sub(extent.start))?;
        kernel_end = u64::from(to) + extent.len;
        let no_entry = super::Error::Elf(super::elf::Error::Entry { entry: elf.entry });
        entry = match header.entry {
            Some(entry) => entry,
            None => elf.physical_entry().ok_or(no_entry)? as u32,
        };
    }
    let load_base = header.relocatable.map(|_| start.wrapping_add(moved));
    let info = information(boot, header, kernel_end, load_base)?;
    Ok(Entry::Protected { eip: entry.wrapping_add(moved), eax: LOADER_MAGIC, ebx: info, esi: 0 })
}

/// Where a kernel goes that is linked to `start`.
fn place<M: Machine>(boot: &Boot<M>, header: &Header, start: u32, len: u64) -> Result<u32, error::Error> {
    let Some(Relocatable { min, max, align, preference }) = header.relocatable else { return Ok(start) };
    let (floor, limit) = (u64::from(min), u64::from(max) + 1);
    let found = match preference {
        2 => boot.map.find_top(len, align.into(), limit).filter(|&at| at >= floor),
        _ => {
            let at = u64::from(start);
            let fits = preference != 1 && at >= floor && at + len <= limit && boot.map.is_free(at, at + len);
            if fits { Some(at) } else { boot.map.find_bottom(len, align.into(), floor, limit) }
        }
    };
    Ok(found.ok_or(super::Error::Room { start: start.into() })? as u32)
}

/// The answer, being written.
struct Tags<'a, M> {
    machine: &'a mut M,
    info: Info,
}

impl<M: Machine> Tags<'_, M> {
    /// Starts a tag of `len` bytes behind its type and size; where they go.
    fn tag(&mut self, kind: u32, len: u64) -> Result<u64, super::Error> {
        let at = self.info.take(8 + len)?;
        self.machine.write(at, [kind, 8 + len as u32]);
        Ok(at + 8)
    }

    fn put<T: IntoBytes + Immutable>(&mut self, kind: u32, value: T) -> Result<(), super::Error> {
        let at = self.tag(kind, size_of::<T>() as u64)?;
        self.machine.write(at, value);
        Ok(())
    }
}

#[inline(never)]
fn information<M: Machine>(
    boot: &mut Boot<M>,
    header: &Header,
    kernel_end: u64,
    load_base: Option<u32>,
) -> Result<u32, error::Error> {
    let mut placed = arrayvec::ArrayVec::<u32, { super::modules::MAX }>::new();
    for i in 0..boot.modules.len() {
        let module = boot.modules[i];
        placed.push(module.place_above(boot, kernel_end)? as u32);
    }
    let mut info = Info::default();
    let start = info.take(8)?;
    let mut tags = Tags { machine: &mut *boot.machine, info };
    let name_len = IMAGE_NAME.len() as u64;
    let at = tags.tag(tag::CMDLINE, name_len + u64::from(boot.cmdline.len) + 1)?;
    tags.machine.write(at, *IMAGE_NAME);
    boot.cmdline.read_text(&boot.fw_cfg, tags.machine, at + name_len)?;
    tags.put(tag::LOADER_NAME, *LOADER_NAME)?;
    for (module, &start) in boot.modules.iter().zip(&placed) {
        let at = tags.tag(tag::MODULE, 8 + u64::from(module.string_len) + 1)?;
        tags.machine.write(at, [start, start + module.len]);
        tags.machine.copy(module.string, at + 8, module.string_len as usize);
        tags.machine.write(at + 8 + u64::from(module.string_len), 0u8);
    }
    tags.put(tag::MEMORY, <[u32; 2]>::from(memory_sizes(boot.map)))?;
    let areas = boot.map.areas();
    let mut at = tags.tag(tag::MEMORY_MAP, 8 + areas.len() as u64 * 24)?;
    // Size and version of an entry.
    tags.machine.write(at, [24u32, 0]);
    for area in areas {
        at += 8;
        tags.machine.write(at, [area.start, area.end - area.start]);
        at += 16;
        let Kind(kind) = area.kind;
        tags.machine.write(at, [kind.get(), 0]);
    }
    let mut there = 1 << tag::CMDLINE
        | 1 << tag::LOADER_NAME
        | 1 << tag::MODULE
        | 1 << tag::MEMORY
        | 1 << tag::MEMORY_MAP;
    if let Some(rsdp) = boot.rsdp {
        // Its revision: 0 is the first, of 20 bytes (ACPI 6.5, 5.2.5.3).
        if tags.machine.read::<u8>(rsdp + 15) < 2 {
            let copy = tags.machine.read::<[u8; 20]>(rsdp);
            tags.put(tag::ACPI_OLD, copy)?;
            there |= 1 << tag::ACPI_OLD;
        } else {
            let copy = tags.machine.read::<[u8; 36]>(rsdp);
            tags.put(tag::ACPI_NEW, copy)?;
            there |= 1 << tag::ACPI_NEW;
        }
    }
    if let Some(base) = load_base {
        tags.put(tag::LOAD_BASE, base)?;
        there |= 1 << tag::LOAD_BASE;
    }
    // Who asks for one kind of ACPI table is content with the other, if that is what the machine has.
    const ACPI: u32 = 1 << tag::ACPI_OLD | 1 << tag::ACPI_NEW;
    if there & ACPI != 0 {
        there |= ACPI;
    }
    let missing = header.information & !there & !1;
    if missing != 0 {
        return Err(super::Error::from(Error::Information(missing.trailing_zeros())).into());
    }
    tags.tag(tag::END, 0)?;
    let end = tags.info.used().end();
    tags.machine.write(start, [(end - start) as u32, 0]);
    Ok(start as u32)
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;
    use crate::fake::Fake;
    use crate::properties::{RAM, boot, multiboot2_kernel_with};

    /// Boots a kernel with this relocatable tag: lowest and highest address, alignment, preference.
    fn relocatable(tag: [u32; 4]) -> (Fake, Result<Entry, (String, u8)>) {
        let [min, max, align, preference] = tag;
        let mut fake = Fake::with_ram(RAM);
        let kernel = multiboot2_kernel_with(&[10, 24, min, max, align, preference]);
        fake.add_file(abi::firmware::KERNEL, &kernel);
        let entered = boot(&mut fake);
        (fake, entered)
    }

    #[test]
    fn a_relocatable_kernel_goes_where_it_likes_to() {
        for (tag, expected) in [
            // Where it is linked to, if it does not mind; the lowest and the highest place that there is.
            ([0x10_0000, 0x2f_ffff, 0x1000, 0], 0x10_0000),
            ([0x20_0000, 0x2f_ffff, 0x1000, 0], 0x20_0000),
            ([0x18_0000, 0x2f_ffff, 0x1000, 1], 0x18_0000),
            ([0x18_0001, 0x2f_ffff, 0x1_0000, 1], 0x19_0000),
            ([0x18_0000, 0x2f_ffff, 0x1000, 2], 0x2f_e000),
            ([0x18_0000, 0x2f_efff, 0x4000, 2], 0x2f_c000),
        ] {
            let (fake, entered) = relocatable(tag);
            let Ok(Entry::Protected { eip, ebx, .. }) = entered else { panic!("{tag:x?}: {entered:x?}") };
            assert_eq!(eip, expected + 0x100, "{tag:x?}");
            assert_eq!(fake.read::<u32>(expected.into()), 0xe852_50d6, "{tag:x?}");
            let mut at = u64::from(ebx) + 8;
            // The tag of the image's load base (3.6.14), whose value stands behind type and size.
            while fake.read::<u32>(at) != 21 {
                assert_ne!(fake.read::<u32>(at), 0, "no load base");
                at += u64::from(fake.read::<u32>(at + 4)).next_multiple_of(8);
            }
            assert_eq!(fake.read::<[u32; 2]>(at + 4), [12, expected], "{tag:x?}");
        }
    }

    #[test]
    fn a_relocatable_kernel_without_a_place_is_refused() {
        use abi::firmware::Code;
        for (tag, expected) in [
            ([0x18_0000, 0x18_0fff, 0x1000, 1], Code::NO_ROOM),
            ([0x18_0000, 0x18_0fff, 0x1000, 2], Code::NO_ROOM),
            // An alignment that is no power of two.
            ([0x18_0000, 0x2f_ffff, 0x3000, 1], Code::MULTIBOOT),
        ] {
            let (line, code) = relocatable(tag).1.expect_err("no place");
            assert_eq!(code, expected.0, "{line}");
        }
    }
}
