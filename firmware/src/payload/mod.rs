//! Step 6: the payload: what it is, where it goes, how it is entered.

pub mod elf;
pub mod info;
pub mod linux;
pub mod modules;
pub mod multiboot1;
pub mod multiboot2;
pub mod pvh;
pub mod qemu;
pub mod relocate;
pub mod unikernel;

use abi::firmware::{Code, Protocol};
use thiserror::Error;

use crate::error;
use crate::fw_cfg::{Files, FwCfg, Item};
use crate::handover::Entry;
use crate::machine::Machine;
use crate::memory_map::MemoryMap;
use crate::places::{CMDLINE, HEAD};
use info::Info;
use modules::Modules;

/// Command lines of fewer bytes go to [`Info`].
const SHORT: u32 = 1024;

/// What is wrong with the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing that we can boot.
    #[error("not a bzImage, has no Multiboot header and is no ELF file for x86: unknown format")]
    Unknown,
    /// Not the kind of file that was asked for.
    #[error("has no entry of the kind {}", .protocol.word())]
    NoEntry {
        /// What was asked for.
        protocol: Protocol,
    },
    /// Not one of the words.
    #[error("{} has none of the words that it can have", abi::firmware::PROTOCOL)]
    Protocol,
    /// A zImage.
    #[error("is a zImage, which would go to 0x10000; only bzImages are booted")]
    LowKernel,
    /// From before 2.4.
    #[error("speaks boot protocol {version:#06x}, and 0x0202 is the first that works")]
    OldKernel {
        /// Its protocol.
        version: u16,
    },
    /// The file ends before the kernel does.
    #[error("has {len} bytes behind its setup code, fewer than its header says")]
    Truncated {
        /// Bytes that there are.
        len: u32,
    },
    /// The setup code is too large.
    #[error("has setup code of {len} bytes, more than there is room for below 1 MiB")]
    Setup {
        /// Its bytes.
        len: u32,
    },
    /// Longer than kernel or firmware take it.
    #[error("takes a command line of at most {max} bytes, and this has {len}")]
    CommandLine {
        /// Its bytes.
        len: u32,
        /// The most.
        max: u32,
    },
    /// Not RAM, somebody else's, or not below 4 GiB.
    #[error("no room at {start:#x}: not enough memory from there on, or it is taken")]
    Room {
        /// From where.
        start: u64,
    },
    /// The modules do not fit.
    #[error("no room for modules of {len:#x} bytes")]
    Modules {
        /// Their bytes.
        len: u64,
    },
    /// More to tell the payload than there is room for.
    #[error("no room for command lines, memory map and list of modules below 1 MiB")]
    Info,
    /// See [`elf::Error`].
    #[error("ELF: {0}")]
    Elf(#[from] elf::Error),
    /// See [`multiboot1::Error`].
    #[error("Multiboot: {0}")]
    Multiboot1(#[from] multiboot1::Error),
    /// See [`multiboot2::Error`].
    #[error("Multiboot 2: {0}")]
    Multiboot2(#[from] multiboot2::Error),
}

impl Error {
    /// What the host is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoEntry { .. } | Self::Protocol => Code::PROTOCOL,
            Self::Room { .. } | Self::Modules { .. } | Self::Info => Code::NO_ROOM,
            Self::Multiboot1(_) | Self::Multiboot2(_) => Code::MULTIBOOT,
            _ => Code::KERNEL,
        }
    }
}

/// Bytes that are still with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The item that has them.
    pub item: u16,
    /// Where they start in it.
    pub offset: u32,
    /// How many.
    pub len: u32,
}

impl Source {
    /// Reads it to memory, and ends it with NUL.
    fn read_text(&self, fw_cfg: &FwCfg, machine: &mut impl Machine, to: u64) -> Result<(), error::Error> {
        fw_cfg.read(machine, self.item, self.offset, to, self.len)?;
        machine.write(to + u64::from(self.len), 0u8);
        Ok(())
    }
}

impl From<Item> for Source {
    fn from(item: Item) -> Self {
        Self { item: item.select, offset: 0, len: item.size }
    }
}

/// All that loaders work with.
pub struct Boot<'a, M> {
    /// The machine.
    pub machine: &'a mut M,
    /// The device that has everything.
    pub fw_cfg: FwCfg,
    /// Memory.
    pub map: &'a mut MemoryMap,
    /// The command line; of its length the NUL is no part.
    pub cmdline: Source,
    /// The modules.
    pub modules: &'a mut Modules,
    /// Address of the ACPI tables' root.
    pub rsdp: Option<u64>,
    /// What was asked for.
    pub protocol: Option<Protocol>,
    /// Whether the payload may call the BIOS.
    pub bios_services: bool,
}

/// Loads whatever there is; how it is entered, and whether it may call the BIOS.
#[inline(never)]
pub fn load<M: Machine>(
    machine: &mut M,
    fw_cfg: FwCfg,
    map: &mut MemoryMap,
    rsdp: Option<u64>,
    files: &Files,
) -> Result<(Entry, bool), error::Error> {
    let mut modules = Modules::new();
    let mut boot = Boot::new(machine, fw_cfg, map, &mut modules, rsdp);
    let entry = find(&mut boot, files)?;
    Ok((entry, boot.bios_services))
}

fn find<M: Machine>(boot: &mut Boot<M>, files: &Files) -> Result<Entry, error::Error> {
    if let Some(file) = files.protocol {
        boot.protocol = Some(asked(boot, file)?);
    }
    let initrd = boot.fw_cfg.number(boot.machine, abi::fw_cfg::key::INITRD_SIZE)?;
    match files.kernel {
        Some(kernel) => {
            boot.set_cmdline(files.cmdline)?;
            boot.set_modules(files, initrd)?;
            file(boot, kernel)
        }
        None => qemu::load(boot, files, initrd),
    }
}

/// Loads a file.
#[inline(never)]
fn file<M: Machine>(boot: &mut Boot<M>, kernel: Item) -> Result<Entry, error::Error> {
    let len = kernel.size.min(HEAD.len as u32);
    boot.fw_cfg.read(boot.machine, kernel.select, 0, HEAD.start, len)?;
    let source = Source::from(kernel);
    let head = boot.machine.bytes(HEAD.start, len as usize);
    let asked = |protocol| boot.protocol.is_none_or(|asked| asked == protocol);
    if let Some(header) = linux::SetupHeader::find(head) {
        let setup_len = header.setup_len();
        let kernel_len = source.len.checked_sub(setup_len).filter(|&len| len > 0).ok_or(Error::Unknown)?;
        let image = linux::Image {
            setup: Source { len: setup_len, ..source },
            kernel: Source { offset: setup_len, len: kernel_len, ..source },
            addr: None,
        };
        return linux::load(boot, &image, header);
    }
    if asked(Protocol::Multiboot2)
        && let Some(header) = multiboot2::Header::find(head).map_err(Error::from)?
    {
        return multiboot2::load(boot, source, &header);
    }
    if asked(Protocol::Multiboot1)
        && let Some(header) = multiboot1::Header::find(head)
    {
        return multiboot1::load(boot, source, &header);
    }
    let elf = elf::Elf::parse(head, source.len).map_err(|error| match (boot.protocol, error) {
        (Some(protocol), elf::Error::Magic) => Error::NoEntry { protocol },
        (None, elf::Error::Magic) => Error::Unknown,
        (_, error) => Error::Elf(error),
    })?;
    let note = if asked(Protocol::Pvh) { pvh::entry(boot, source, &elf)? } else { None };
    match (note, boot.protocol) {
        (Some(entry), _) => pvh::load(boot, source, &elf, entry),
        (None, None | Some(Protocol::Elf64)) => unikernel::load(boot, source, &elf),
        (None, Some(protocol)) => Err(Error::NoEntry { protocol }.into()),
    }
}

#[inline(never)]
fn asked<M: Machine>(boot: &mut Boot<M>, file: Item) -> Result<Protocol, error::Error> {
    let len = file.size.min(32);
    let at = boot.fw_cfg.fetch(boot.machine, file.select, 0, HEAD.start, len)?;
    let text = boot.machine.bytes(at, len as usize);
    let word = text.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    let found = Protocol::ALL.into_iter().find(|it| it.word().as_bytes() == word);
    Ok(found.ok_or(Error::Protocol)?)
}

impl<'a, M: Machine> Boot<'a, M> {
    /// With nothing but the machine as it is.
    pub fn new(
        machine: &'a mut M,
        fw_cfg: FwCfg,
        map: &'a mut MemoryMap,
        modules: &'a mut Modules,
        rsdp: Option<u64>,
    ) -> Self {
        let cmdline = Source { item: abi::fw_cfg::key::CMDLINE_DATA, offset: 0, len: 0 };
        let (protocol, bios_services) = (None, false);
        Self { machine, fw_cfg, map, cmdline, modules, rsdp, protocol, bios_services }
    }

    /// Gives the payload BIOS services: before it is told of any memory.
    fn offer_bios(&mut self) -> Result<(), error::Error> {
        self.bios_services = true;
        Ok(crate::bios::reserve(self.machine, self.map)?)
    }

    /// Takes the command line from a file, or from where the VMM's own is.
    fn set_cmdline(&mut self, file: Option<Item>) -> Result<(), error::Error> {
        use abi::fw_cfg::key;
        self.cmdline = match file {
            Some(file) => file.into(),
            None => {
                let len = self.fw_cfg.number(self.machine, key::CMDLINE_SIZE)?.saturating_sub(1);
                Source { item: key::CMDLINE_DATA, offset: 0, len }
            }
        };
        let max = CMDLINE.len as u32 - 1;
        if self.cmdline.len > max {
            return Err(Error::CommandLine { len: self.cmdline.len, max }.into());
        }
        Ok(())
    }

    fn set_modules(&mut self, files: &Files, initrd: u32) -> Result<(), error::Error> {
        let initrd = Item { select: abi::fw_cfg::key::INITRD_DATA, size: initrd };
        let initrd = (initrd.size > 0).then_some(initrd);
        if initrd.is_none() && files.modules.is_none() {
            return Ok(());
        }
        modules::find(self.machine, &self.fw_cfg, files, initrd, self.modules)
    }

    /// Reads the command line to where it stays: into `info`, if it is short, else to [`CMDLINE`].
    fn load_cmdline(&mut self, info: &mut Info) -> Result<u64, error::Error> {
        let len = self.cmdline.len;
        let to = if len < SHORT { info.take(u64::from(len) + 1)? } else { CMDLINE.start };
        self.cmdline.read_text(&self.fw_cfg, self.machine, to)?;
        Ok(to)
    }
}
