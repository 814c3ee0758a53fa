//! Modules: the initrd that the VMM was given, then those of an archive ([`abi::modules`]).

use abi::layout;
use abi::modules::{COUNT_MAX, Entry, HEAD_MAX, Header, MAGIC};
use arrayvec::ArrayVec;
use thiserror::Error;
use zerocopy::FromBytes;

use super::Boot;
use crate::error;
use crate::fw_cfg::{Files, FwCfg, Item};
use crate::machine::Machine;
use crate::memory_map::FOUR_GIB;
use crate::places::ARCHIVE;

/// What is wrong with the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// It does not begin as one.
    #[error("this is no archive of modules")]
    Magic,
    /// More than there is room for.
    #[error("{0} modules, more than {COUNT_MAX}")]
    Count(u32),
    /// The head has no room for its entries, is too large, or is larger than the file.
    #[error("a head of {0} bytes is too small, too large or truncated")]
    Head(u32),
    /// A module's string is outside of the head or has a NUL.
    #[error("module {0}: its string is outside of the head, or has a NUL")]
    String(u32),
    /// A module's data is in the head or behind the end.
    #[error("module {0}: its data is not between the head and the file's end")]
    Data(u32),
}

/// A module that is still with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    item: u16,
    offset: u32,
    /// Bytes of its data.
    pub len: u32,
    /// Where its string is in memory.
    pub string: u64,
    /// Bytes of its string, which has no NUL.
    pub string_len: u32,
}

/// The most modules: those of an archive, and an initrd.
pub const MAX: usize = COUNT_MAX as usize + 1;

/// All modules.
pub type Modules = ArrayVec<Module, MAX>;

/// Finds out which modules there are.
#[inline(never)]
pub fn find(
    machine: &mut impl Machine,
    fw_cfg: &FwCfg,
    files: &Files,
    initrd: Option<Item>,
    modules: &mut Modules,
) -> Result<(), error::Error> {
    if let Some(Item { select, size }) = initrd {
        modules.push(Module { item: select, offset: 0, len: size, string: ARCHIVE.start, string_len: 0 });
    }
    if let Some(archive) = files.modules {
        let len = archive.size.min(HEAD_MAX);
        fw_cfg.read(machine, archive.select, 0, ARCHIVE.start, len)?;
        parse(machine.bytes(ARCHIVE.start, len as usize), archive, modules)?;
    }
    Ok(())
}

/// Appends the modules of an archive that starts with `head`.
pub fn parse(head: &[u8], archive: Item, modules: &mut Modules) -> Result<(), Error> {
    let (header, mut rest) = Header::read_from_prefix(head).map_err(|_| Error::Magic)?;
    if header.magic != MAGIC {
        return Err(Error::Magic);
    }
    let (count, head_len) = (header.count.get(), header.head_len.get());
    if count > COUNT_MAX {
        return Err(Error::Count(count));
    }
    let fixed = size_of::<Header>() + count as usize * size_of::<Entry>();
    if (head_len as usize) < fixed || head_len as usize > head.len() {
        return Err(Error::Head(head_len));
    }
    for i in 0..count {
        let (entry, after) = Entry::read_from_prefix(rest).map_err(|_| Error::Head(head_len))?;
        rest = after;
        let string = entry.string_offset.get() as usize;
        let string_end = string.checked_add(entry.string_len.get() as usize);
        let inside = string_end.filter(|&end| end <= head_len as usize);
        let text = inside.and_then(|end| head.get(string..end)).ok_or(Error::String(i))?;
        if text.contains(&0) {
            return Err(Error::String(i));
        }
        let (offset, len) = (entry.data_offset.get(), entry.data_len.get());
        let end = offset.checked_add(len).filter(|&end| end <= archive.size.into());
        if offset < head_len.into() || end.is_none() {
            return Err(Error::Data(i));
        }
        let module = Module {
            item: archive.select,
            offset: offset as u32,
            len: len as u32,
            string: ARCHIVE.start + string as u64,
            string_len: entry.string_len.get(),
        };
        modules.try_push(module).map_err(|_| Error::Count(count))?;
    }
    Ok(())
}

impl Module {
    /// Reads the module to where it stays.
    pub fn load<M: Machine>(&self, boot: &mut Boot<M>, to: u64) -> Result<(), error::Error> {
        boot.fw_cfg.read(boot.machine, self.item, self.offset, to, self.len)
    }

    /// Finds it the highest place of whole pages below 4 GiB, and reads it to there.
    pub fn place<M: Machine>(&self, boot: &mut Boot<M>) -> Result<u64, error::Error> {
        let len = u64::from(self.len).next_multiple_of(4096).max(4096);
        let no_room = super::Error::Modules { len: self.len.into() };
        let to = boot.map.take_top(len, 4096, FOUR_GIB).ok_or(no_room)?;
        self.load(boot, to)?;
        Ok(to)
    }

    /// Finds it the lowest place of whole pages, above the kernel if it can be, where kernels that map little memory see
    /// it, and reads it to there.
    pub fn place_above<M: Machine>(&self, boot: &mut Boot<M>, kernel_end: u64) -> Result<u64, error::Error> {
        let len = u64::from(self.len).next_multiple_of(4096).max(4096);
        let floor = kernel_end.max(layout::HIGH_RAM_START);
        let no_room = super::Error::Modules { len: self.len.into() };
        let above = boot.map.find_bottom(len, 4096, floor, FOUR_GIB);
        // A kernel that wants to be as high as possible leaves nothing above it.
        let anywhere = || boot.map.find_bottom(len, 4096, layout::HIGH_RAM_START, FOUR_GIB);
        let to = above.or_else(anywhere).ok_or(no_room)?;
        if !boot.map.take(to, to + len) {
            return Err(no_room.into());
        }
        self.load(boot, to)?;
        Ok(to)
    }
}
