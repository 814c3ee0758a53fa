//! Guest memory: regions, their backing, and the one path by which the VMM writes to it.

pub mod layout;
mod lookup;
mod mapping;
mod pages;
mod shown;

use std::fs::File;
use std::io;
use std::sync::Arc;

use abi::layout::Range;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::MapFlags;
use vm_memory::bitmap::RefSlice;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion, VolatileSlice,
};

use crate::config::{HugePages, MemorySpec};
use layout::RamLayout;
pub use lookup::{Field, Lookup, Region, field, load_index, store_index, subslice};
pub use mapping::{HUGE_PAGE, Mapping};
pub use pages::{PAGE, Pages};
pub use shown::Shown;

/// Guest memory that could not be had, or not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No mapping of that size.
    #[error("guest memory: cannot map {size} bytes{}: {source}", hint(*.huge))]
    Map {
        /// Bytes that were asked for.
        size: u64,
        /// Kind of pages that were asked for.
        huge: HugePages,
        /// What the kernel said.
        source: io::Error,
    },
    /// An address that has no memory behind it.
    #[error("guest memory at {addr:#x}, {len:#x} bytes: {source}")]
    Access {
        /// Guest-physical address.
        addr: u64,
        /// Length in bytes.
        len: u64,
        /// What was found.
        source: GuestMemoryError,
    },
}

fn hint(huge: HugePages) -> &'static str {
    match huge {
        HugePages::Size2M => " in pages of 2 MiB (reserve some: `sysctl vm.nr_hugepages=N`)",
        HugePages::Size1G => {
            " in pages of 1 GiB (reserve some: `hugepages=N hugepagesz=1G` on the host's command line)"
        }
        HugePages::Default | HugePages::Thp => "",
    }
}

/// What a device or a loader sees of the map at one moment.
pub type Map = GuestMemoryMmap<Pages>;

/// Memory at these places, which are in order, for tests.
#[cfg(test)]
pub fn map_of(ranges: &[Range]) -> Map {
    let region = |range: &Range| {
        let bitmap = Pages::new(range.len as usize, None);
        let region = MmapRegionBuilder::new_with_bitmap(range.len as usize, bitmap)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            .build()
            .unwrap();
        GuestRegionMmap::new(region, GuestAddress(range.start)).unwrap()
    };
    Map::from_regions(ranges.iter().map(region).collect()).unwrap()
}

/// Whether the pages that we write are tracked.
#[must_use]
pub fn is_tracked(map: &Map) -> bool {
    map.iter().any(|region| region.get_mmap().bitmap().is_on())
}

/// Guest memory. Clones share it; the map behind them can be exchanged while the guest runs.
#[derive(Clone, Debug)]
pub struct Memory {
    map: GuestMemoryAtomic<Map>,
    /// Whether the host is left to choose which pages are huge.
    host_chooses: bool,
}

/// A region as KVM wants to know it.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Guest-physical addresses.
    pub range: Range,
    /// Address in this process of the region's first byte; the mapping lives as long as the [`Memory`].
    pub host: u64,
}

impl Memory {
    /// Maps RAM as `spec` and `layout` say. Pages come into being when they are touched.
    pub fn new(spec: &MemorySpec, layout: &RamLayout) -> Result<Self, Error> {
        let regions: Vec<_> =
            layout.regions().map(|range| map_region(spec, range)).collect::<Result<_, _>>()?;
        let map = Map::from_regions(regions).map_err(|e| Error::Map {
            size: spec.size,
            huge: spec.huge,
            source: io::Error::other(e),
        })?;
        let host_chooses = spec.huge == HugePages::Default && !spec.shared;
        Ok(Self { map: GuestMemoryAtomic::new(map), host_chooses })
    }

    /// Where the host is left to choose, asks it for small pages at the start of RAM, where tables go: a huge one
    /// would be cleared as a whole. For guests too small to use the rest of it; before anything is written.
    pub fn keep_start_small(&self) -> Result<(), Error> {
        let map = self.map.memory();
        let Some(first) = map.iter().next().filter(|_| self.host_chooses) else { return Ok(()) };
        let advised = first.get_mmap().bitmap().mapping().map_or(Ok(()), Mapping::advise_small_start);
        advised.map_err(|source| Error::Map { size: HUGE_PAGE as u64, huge: HugePages::Default, source })
    }

    /// Has pages at the start of RAM ready that are touched soon, for less than a fault takes for each.
    pub fn populate(&self, ranges: &[Range]) {
        let map = self.map.memory();
        let Some(first) = map.iter().next() else { return };
        first.get_mmap().bitmap().mapping().into_iter().for_each(|mapping| {
            ranges.iter().for_each(|range| mapping.populate(range.start as usize, range.len as usize));
        });
    }

    /// The map as it is now.
    #[must_use]
    pub fn map(&self) -> Arc<Map> {
        self.map.memory().into_inner()
    }

    /// The regions, for KVM's memory slots.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        let slot = |r: &GuestRegionMmap<Pages>| Slot {
            range: Range { start: r.start_addr().raw_value(), len: r.len() },
            host: r.as_ptr() as u64,
        };
        self.map.memory().iter().map(slot).collect()
    }

    /// Starts or stops to track the pages that we write; it starts with every page clean.
    pub fn track(&self, on: bool) {
        for region in self.map.memory().iter() {
            let mapping = region.get_mmap();
            if on { mapping.bitmap().start() } else { mapping.bitmap().stop() }
        }
    }

    /// Start of each region and its pages that we have written since they were asked for last, 64 to a word.
    #[must_use]
    pub fn take_dirty(&self) -> Vec<(u64, Vec<u64>)> {
        let map = self.map.memory();
        map.iter().map(|r| (r.start_addr().raw_value(), r.get_mmap().bitmap().take())).collect()
    }

    /// Writes `data` at a guest-physical address, and marks the pages dirty while that is tracked.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        let access = |source| Error::Access { addr, len: data.len() as u64, source };
        self.map.memory().write_slice(data, GuestAddress(addr)).map_err(access)
    }

    /// Reads guest memory at a guest-physical address.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> Result<(), Error> {
        let len = data.len() as u64;
        let access = |source| Error::Access { addr, len, source };
        self.map.memory().read_slice(data, GuestAddress(addr)).map_err(access)
    }

    /// Lets `write` fill `len` bytes at a guest-physical address; they must not cross regions.
    pub fn fill(
        &self,
        addr: u64,
        len: u64,
        write: impl FnOnce(&Slice<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let map = self.map.memory();
        map.get_slice(GuestAddress(addr), len as usize)
            .and_then(|slice| write(&slice).map_err(GuestMemoryError::IOError))
            .map_err(|source| Error::Access { addr, len, source })
    }
}

/// Guest memory as loaders see it.
pub type Slice<'a> = VolatileSlice<'a, RefSlice<'a, Pages>>;

/// Maps a region so that guest-physical and host addresses have the same place in a huge page: only then can KVM
/// map it by huge pages. Kernels before 6.7 do not see to that themselves.
fn map_region(spec: &MemorySpec, range: Range) -> Result<GuestRegionMmap<Pages>, Error> {
    let fail = |source| Error::Map { size: range.len, huge: spec.huge, source };
    let len = usize::try_from(range.len).map_err(|_| fail(io::ErrorKind::OutOfMemory.into()))?;
    let file = if spec.shared { Some(memfd(spec.huge, range.len).map_err(fail)?) } else { None };
    // Huge pages are reserved at once: a pool that is too small ends the process by a signal later.
    let mut flags = match spec.huge {
        HugePages::Size2M | HugePages::Size1G => MapFlags::empty(),
        HugePages::Default | HugePages::Thp => MapFlags::NORESERVE,
    };
    flags |= if spec.shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
    if spec.prealloc {
        flags |= MapFlags::POPULATE;
    }
    let align = match spec.huge {
        HugePages::Size1G => 1 << 30,
        _ => HUGE_PAGE,
    };
    // A memfd of huge pages is mapped by them without being asked.
    if !spec.shared {
        flags |= match spec.huge {
            HugePages::Size2M => MapFlags::HUGETLB | MapFlags::HUGE_2MB,
            HugePages::Size1G => MapFlags::HUGETLB | MapFlags::HUGE_1GB,
            HugePages::Default | HugePages::Thp => MapFlags::empty(),
        };
    }
    let mapping = Mapping::new(len, align, flags, file.as_ref()).map_err(fail)?;
    if spec.huge == HugePages::Thp {
        mapping.advise_huge().map_err(fail)?;
    }
    let region = region(mapping, len, file).map_err(fail)?;
    GuestRegionMmap::new(region, GuestAddress(range.start))
        .ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))
}

#[allow(unsafe_code, reason = "vm-memory does not align its own mappings")]
fn region(mapping: Mapping, len: usize, file: Option<File>) -> io::Result<MmapRegion<Pages>> {
    let addr = mapping.as_ptr();
    let region = MmapRegionBuilder::new_with_bitmap(len, Pages::new(len, Some(mapping)));
    // SAFETY: the mapping is `len` bytes long, and stays for as long as the region, whose bitmap owns it.
    let region = unsafe { region.with_raw_mmap_pointer(addr) };
    let region = match file {
        Some(file) => region.with_file_offset(FileOffset::new(file, 0)),
        None => region,
    };
    region.build().map_err(io::Error::other)
}

fn memfd(huge: HugePages, len: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC
        | match huge {
            HugePages::Size2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            HugePages::Size1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
            HugePages::Default | HugePages::Thp => MemfdFlags::empty(),
        };
    let file = memfd_create("guest-ram", flags)?;
    ftruncate(&file, len)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(size: u64, shared: bool) -> MemorySpec {
        MemorySpec { size, huge: HugePages::Default, prealloc: false, shared }
    }

    #[test]
    fn writes_land_and_are_tracked() {
        for shared in [false, true] {
            let memory = Memory::new(&spec(5 << 30, shared), &RamLayout::new(5 << 30)).unwrap();
            let slots = memory.slots();
            assert_eq!(slots.len(), 2);
            assert_eq!(slots[1].range, Range { start: 4 << 30, len: 2 << 30 });
            memory.track(true);
            memory.write((4 << 30) + 4090, b"crosses a page").unwrap();
            let dirty = memory.take_dirty();
            assert_eq!((dirty[1].0, dirty[1].1[0]), (4 << 30, 0b11));
            assert!(dirty[0].1.iter().all(|&word| word == 0));
            let mut back = [0; 14];
            memory.read((4 << 30) + 4090, &mut back).unwrap();
            assert_eq!(&back, b"crosses a page");
        }
    }

    #[test]
    fn huge_pages_that_are_not_there_are_missed_at_once() {
        // More than any test's host keeps in its pool, and little enough to have addresses for.
        let layout = RamLayout::new(1 << 40);
        for huge in [HugePages::Size2M, HugePages::Size1G] {
            for shared in [false, true] {
                let spec = MemorySpec { huge, ..spec(1 << 40, shared) };
                let error = Memory::new(&spec, &layout).unwrap_err().to_string();
                assert!(error.contains("in pages of") && error.contains("reserve some"), "{error}");
            }
        }
    }

    #[test]
    fn nothing_reaches_outside() {
        let memory = Memory::new(&spec(16 << 20, false), &RamLayout::new(16 << 20)).unwrap();
        assert!(memory.write((16 << 20) - 1, &[1, 2]).is_err());
        assert!(memory.write(u64::MAX, &[1]).is_err());
        let mut seen = 0;
        let full = |slice: &Slice<'_>| {
            seen = slice.len();
            slice.copy_from(&[7u8; 10]);
            Ok(())
        };
        memory.fill(0x1000, 10, full).unwrap();
        let mut back = [0; 11];
        memory.read(0x1000, &mut back).unwrap();
        assert_eq!((seen, back), (10, [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]));
        let refused = |_: &Slice<'_>| Err(io::ErrorKind::UnexpectedEof.into());
        assert!(memory.fill(0x1000, 10, refused).is_err());
        assert!(memory.fill((16 << 20) - 5, 10, |_| Ok(())).is_err());
    }
}
