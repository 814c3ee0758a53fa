//! Step 2: what memory there is, and what of it is given away.

use abi::e820::{Entry, Kind};
use abi::layout;
use arrayvec::ArrayVec;
use thiserror::Error;
use zerocopy::FromBytes;

use crate::error;
use crate::fw_cfg::{Files, FwCfg};
use crate::machine::Machine;
use crate::places::{HEAD, is_kept};

/// The most ranges of a map: what fits into Linux's zero page.
pub const MAX: usize = 128;
/// The most ranges that are not to be given away twice.
const TAKEN_MAX: usize = 96;
/// Where addresses of 32 bits end.
pub const FOUR_GIB: u64 = 1 << 32;

/// Why there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// `etc/e820` is missing.
    #[error("there is no file etc/e820")]
    NoFile,
    /// Not a number of entries.
    #[error("etc/e820 has {0} bytes, which is no list of entries of 20 bytes, or more than 128")]
    Size(u32),
    /// An entry is empty, wraps, or overlaps the one before.
    #[error("etc/e820: entry {0} is empty, overlaps one before or ends above 2^64")]
    Entry(usize),
    /// Too many.
    #[error("more than 128 ranges")]
    Full,
    /// No RAM at 1 MiB.
    #[error("there is no memory at 1 MiB")]
    NoRam,
}

/// A range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What it is.
    pub kind: Kind,
}

/// All memory, in ascending order, without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    areas: ArrayVec<Area, MAX>,
    taken: ArrayVec<(u64, u64), TAKEN_MAX>,
}

/// Reads the memory map and takes out of it what is no RAM on any PC.
#[inline(never)]
pub fn read(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    files: &Files,
    map: &mut MemoryMap,
) -> Result<(), error::Error> {
    let file = files.e820.ok_or(Error::NoFile)?;
    let len = file.size as usize;
    if !len.is_multiple_of(size_of::<Entry>()) || len > MAX * size_of::<Entry>() {
        return Err(Error::Size(file.size).into());
    }
    let at = fw_cfg.fetch(machine, file.select, 0, HEAD.start, file.size)?;
    map.parse(machine.bytes(at, len))?;
    map.set(layout::EBDA.start, layout::EBDA.end(), Kind::RESERVED)?;
    map.cut(layout::EBDA.end(), LEGACY_BIOS)?;
    map.set(LEGACY_BIOS, layout::HIGH_RAM_START, Kind::RESERVED)?;
    if !map.is_ram(layout::HIGH_RAM_START, layout::HIGH_RAM_START + 1) {
        return Err(Error::NoRam.into());
    }
    Ok(())
}

/// Start of the F segment, where BIOS code and tables are.
const LEGACY_BIOS: u64 = 0xf_0000;

impl MemoryMap {
    /// Takes in the bytes of `etc/e820`.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for (i, bytes) in bytes.chunks_exact(size_of::<Entry>()).enumerate() {
            let entry = Entry::read_from_bytes(bytes).map_err(|_| Error::Entry(i))?;
            let start = entry.addr.get();
            let end =
                start.checked_add(entry.size.get()).filter(|&end| end > start).ok_or(Error::Entry(i))?;
            let at = self.areas.iter().position(|area| area.start >= start).unwrap_or(self.areas.len());
            let clear_below = at == 0 || self.areas[at - 1].end <= start;
            if !clear_below || self.areas.get(at).is_some_and(|next| next.start < end) {
                return Err(Error::Entry(i));
            }
            self.areas.try_insert(at, Area { start, end, kind: entry.kind }).map_err(|_| Error::Full)?;
        }
        Ok(())
    }

    /// The ranges.
    #[must_use]
    pub fn areas(&self) -> &[Area] {
        &self.areas
    }

    /// Where the memory below `limit` ends.
    #[must_use]
    pub fn end_below(&self, limit: u64) -> u64 {
        let below = self.areas.iter().rev().find(|area| area.start < limit);
        below.map_or(0, |area| area.end.min(limit))
    }

    /// Removes a range.
    pub fn cut(&mut self, start: u64, end: u64) -> Result<(), Error> {
        let mut i = 0;
        while let Some(&area) = self.areas.get(i) {
            if area.start >= end {
                break;
            }
            if area.end <= start {
                i += 1;
                continue;
            }
            match (area.start < start, area.end > end) {
                (true, true) => {
                    self.areas[i].end = start;
                    let rest = Area { start: end, ..area };
                    self.areas.try_insert(i + 1, rest).map_err(|_| Error::Full)?;
                }
                (true, false) => self.areas[i].end = start,
                (false, true) => self.areas[i].start = end,
                (false, false) => {
                    self.areas.remove(i);
                    continue;
                }
            }
            i += 1;
        }
        Ok(())
    }

    /// Says what a range is, whatever it was.
    pub fn set(&mut self, start: u64, end: u64, kind: Kind) -> Result<(), Error> {
        self.cut(start, end)?;
        let at = self.areas.iter().position(|area| area.start >= end).unwrap_or(self.areas.len());
        // Most ranges are set next to one of their kind: tables grow down from the end of RAM.
        if let Some(next) = self.areas.get_mut(at).filter(|next| next.start == end && next.kind == kind) {
            next.start = start;
            return Ok(());
        }
        self.areas.try_insert(at, Area { start, end, kind }).map_err(|_| Error::Full)
    }

    /// Whether all of a range is RAM.
    #[must_use]
    pub fn is_ram(&self, start: u64, end: u64) -> bool {
        let mut from = start;
        for area in self.areas.iter().filter(|area| area.kind == Kind::RAM) {
            if area.start <= from && from < area.end {
                from = area.end;
            }
        }
        start <= end && from >= end
    }

    /// Takes a fixed range for the payload: it has to be RAM that nobody has.
    #[must_use]
    pub fn take(&mut self, start: u64, end: u64) -> bool {
        self.is_free(start, end) && self.taken.try_push((start, end)).is_ok()
    }

    /// Whether a payload may have a range.
    #[must_use]
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        !is_kept(start, end)
            && self.is_ram(start, end)
            && !self.taken.iter().any(|&(s, e)| start < e && s < end)
    }

    /// Takes the highest free RAM at or above 1 MiB that ends at or below `limit`. `align` is a power of two.
    #[must_use]
    pub fn take_top(&mut self, len: u64, align: u64, limit: u64) -> Option<u64> {
        let start = self.find_top(len, align, limit)?;
        self.taken.try_push((start, start + len)).ok()?;
        Some(start)
    }

    /// Takes the highest free RAM below 4 GiB out of the map, for good.
    pub fn reserve_top(&mut self, len: u64, align: u64, kind: Kind) -> Result<Option<u64>, Error> {
        let Some(start) = self.find_top(len, align, FOUR_GIB) else { return Ok(None) };
        self.set(start, start + len, kind)?;
        Ok(Some(start))
    }

    /// The lowest free RAM from `floor` on that ends at or below `limit`. `align` is a power of two.
    #[must_use]
    pub fn find_bottom(&self, len: u64, align: u64, floor: u64, limit: u64) -> Option<u64> {
        let starts = self.areas.iter().map(|area| area.start).chain(self.taken.iter().map(|taken| taken.1));
        let aligned = |start: u64| start.max(floor).checked_next_multiple_of(align);
        let fits =
            |start: &u64| start.checked_add(len).is_some_and(|end| end <= limit && self.is_free(*start, end));
        starts.filter_map(aligned).filter(fits).min()
    }

    /// The highest free RAM from 1 MiB on that ends at or below `limit`. `align` is a power of two.
    #[must_use]
    pub fn find_top(&self, len: u64, align: u64, limit: u64) -> Option<u64> {
        for area in self.areas.iter().rev().filter(|area| area.kind == Kind::RAM) {
            let bottom = area.start.max(layout::HIGH_RAM_START);
            let mut end = area.end.min(limit);
            while let Some(start) = end.checked_sub(len).map(|start| start & !(align - 1)) {
                if start < bottom {
                    break;
                }
                match self.taken.iter().find(|&&(s, e)| start < e && s < start + len) {
                    Some(&(s, _)) => end = s,
                    None => return Some(start),
                }
            }
        }
        None
    }
}
