//! What can be wrong with a configuration. Every message is one line: where, what, what to do.

use std::fmt;
use std::io;

use super::one_line::OneLine;
use super::{Cid, Cpus, FileRef, MemorySize, Mtu};

/// A single value that cannot be. The caller adds where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A path of no characters.
    #[error("the path is empty: name a file")]
    EmptyPath,
    /// A path that the system could not open.
    #[error("the path has a NUL in it: no file has such a name")]
    NulInPath,
    /// `fd:` without a number that a descriptor can have.
    #[error("`{}` is not a descriptor: write fd:N, N from 0 to {}, or ./fd:… for a file of that name", OneLine(.0), i32::MAX)]
    Descriptor(String),
    /// Not 1 to 254.
    #[error("`{}` is not a number of CPUs that a VM can have: give 1 to {}", OneLine(.0), Cpus::MAX.get())]
    Cpus(String),
    /// No whole number, or an unknown unit.
    #[error("`{}` is not a size: write a whole number and K, M, G or T, such as 512M (no unit: MiB)", OneLine(.0))]
    Size(String),
    /// Bytes below [`MemorySize::MIN`].
    #[error("{0} bytes are too little memory: give {min} or more", min = MemorySize::MIN)]
    MemoryTooSmall(u64),
    /// Above [`MemorySize::MAX`], or no 64-bit number.
    #[error("`{}` is more memory than a VM can have: give {max} or less", OneLine(.0), max = MemorySize::MAX)]
    MemoryTooLarge(String),
    /// Bytes that are no multiple of 4 KiB.
    #[error("{0} bytes are not a whole number of 4 KiB pages: round to a multiple of 4096")]
    MemoryUnaligned(u64),
    /// An unknown part of `--memory`.
    #[error("`{}` is not an option of memory: after the size come huge=default|thp|2M|1G, prealloc, shared", OneLine(.0))]
    MemoryOption(String),
    /// A part of `--memory` that was there before.
    #[error("`{}` repeats an option of memory: give it once", OneLine(.0))]
    MemoryOptionTwice(String),
    /// A kernel ends its command line at a NUL.
    #[error("the command line has a NUL at byte {at}, where the kernel would cut it: take it out")]
    NulInCmdline {
        /// Offset in bytes.
        at: usize,
    },
    /// Longer than [`super::Cmdline::MAX`].
    #[error("the command line has {len} bytes, for which there is no room: shorten it to {max} or less")]
    CmdlineTooLong {
        /// Its bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Not a non-negative `ktime_t`.
    #[error("`{}` is not a time: give nanoseconds of CLOCK_MONOTONIC as a whole number", OneLine(.0))]
    Nanoseconds(String),
    /// Not a setting of KASLR.
    #[error("`{}` does not say how to place the kernel: write random, off, or a seed (a whole number)", OneLine(.0))]
    Kaslr(String),
    /// A seed beyond 64 bits.
    #[error("the seed `{}` is too large: give one below 2^64", OneLine(.0))]
    SeedTooLarge(String),
    /// Not a place for the console.
    #[error("`{}` is no place for a console: write stdio, file=PATH or off", OneLine(.0))]
    Console(String),
    /// Not a token bucket.
    #[error("`{}` is not a rate: write SIZE[/TIME][+BURST], such as 10M, 1M/100ms or 10M+100M", OneLine(.0))]
    Rate(String),
    /// A token bucket that is always empty, or refilled in no time.
    #[error("the rate {0} lets nothing through or all: give a size and a time above 0, or leave it out")]
    EmptyBucket(String),
    /// Not a name that a guest could use in a path.
    #[error("`{}` is not a name for a port: give 1 to 64 letters, digits, `.`, `-` or `_`", OneLine(.0))]
    PortName(String),
    /// A device whose options make none.
    #[error("{}", OneLine(.reason))]
    Pairs {
        /// All of the device's options: it may be one of several.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a number of queues.
    #[error("`{}` is no number of queues: give 1 to {max}", OneLine(.0), max = u8::MAX)]
    Queues(String),
    /// Not the serial number of a disk.
    #[error("`{}` is no serial number: write at most {max} ASCII characters", OneLine(.0), max = super::Serial::MAX)]
    Serial(String),
    /// Not the size of a disk's blocks.
    #[error("`{}` is no size of blocks: give a power of two from 512 to 2M, such as 4096 or 4K", OneLine(.0))]
    BlockSize(String),
    /// Neither a name that an interface can have nor descriptors.
    #[error("`{}` is no tap: write the name of an interface, up to 15 bytes, or fd:N", OneLine(.0))]
    Tap(String),
    /// Not the hardware address of a card.
    #[error("`{}` is no hardware address of one card: write six bytes such as 02:00:00:00:00:01", OneLine(.0))]
    Mac(String),
    /// Not a length of packets.
    #[error("`{}` is no MTU: give {} to {} bytes", OneLine(.0), Mtu::MIN.get(), Mtu::MAX.get())]
    Mtu(String),
    /// Not a context identifier that a guest can have.
    #[error("`{}` is no context identifier of a guest: give {} to {}", OneLine(.0), Cid::MIN.get(), Cid::MAX.get())]
    Cid(String),
    /// Neither `on` nor `off`.
    #[error("`{}` is neither on nor off: write one of them", OneLine(.0))]
    Switch(String),
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: FileRef,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// The key with the tables around it, such as `memory.size`; empty where there is none.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", OneLine(&self.key))?;
        }
        Ok(())
    }
}

/// Why there is no valid configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be opened or read.
    #[error("{file}: cannot read this configuration file, {source}: name one that can be read")]
    Read {
        /// The file.
        file: FileRef,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is no reasonable size.
    #[error("{file}: this is no configuration file, it has more than {limit} bytes: check the name")]
    TooLarge {
        /// The file.
        file: FileRef,
        /// The limit in bytes.
        limit: u64,
    },
    /// The configuration file is not text.
    #[error("{0}: this is no configuration file, it is not UTF-8 text: check the name")]
    NotText(Place),
    /// What stands there cannot be read, or cannot be.
    #[error("{place}: {}", OneLine(.reason))]
    Invalid {
        /// Where.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such key.
    #[error("{place}: unknown key; {}", suggestion(*.nearest))]
    UnknownKey {
        /// Where.
        place: Place,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A Firecracker configuration asks for what Jiffy does not have.
    #[error("{place}: Jiffy has no {what} yet; take this out to start without")]
    Unsupported {
        /// Where.
        place: Place,
        /// What is asked for.
        what: &'static str,
    },
    /// Neither a kernel nor a firmware.
    #[error(
        "there is nothing to boot: give --kernel FILE or --firmware FILE (`jiffy run --help` has examples)"
    )]
    NothingToBoot,
    /// Something that only a firmware could use.
    #[error("--{0}: this is for a firmware, and there is none: give --firmware as well, or leave this out")]
    NeedsFirmware(&'static str),
    /// Something that only a kernel could use.
    #[error("--{0}: this is for a kernel, and there is none: give a kernel as well, or leave this out")]
    NeedsKernel(&'static str),
    /// Memory that its huge pages do not fill.
    #[error(
        "--memory: {size} is not a whole number of {page} huge pages: give a multiple of {page}, or huge=thp"
    )]
    PartialHugePage {
        /// The memory.
        size: MemorySize,
        /// The huge page.
        page: MemorySize,
    },
    /// Devices of which two claim what only one can have.
    #[error("--{key}: two have the {what} `{}`: give each one of its own", OneLine(.value))]
    Twice {
        /// Their flag, without dashes.
        key: &'static str,
        /// The option.
        what: &'static str,
        /// What both say.
        value: String,
    },
    /// A valid configuration that a file cannot hold.
    #[error("--print-config: {}, which a configuration file must be: rename it, or hand it over as fd:N", OneLine(.0))]
    Unprintable(String),
}

fn suggestion(nearest: Option<&'static str>) -> String {
    match nearest {
        Some(key) => format!("did you mean `{key}`?"),
        None => "`jiffy schema` lists what there is".to_owned(),
    }
}
