//! What can be wrong with a disk image. The name of the image is part of each message.

use std::fmt;
use std::io;

/// An image that cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("{name}: {source}")]
    Open {
        /// Its path or descriptor.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A folder, a pipe, a terminal.
    #[error("{0}: neither a regular file nor a block device")]
    NoDisk(String),
    /// Somebody holds a lock on it.
    #[error("{name}: is in use by {}", match (holder, writes) {
        (Some(holder), _) => format!("this VM's own {holder}: give each an image or an overlay of its own, or make both readonly"),
        (None, true) => "another program: end that, or use overlay=…, which does not write to it".to_owned(),
        (None, false) => "another program that writes to it: end that first".to_owned(),
    })]
    Locked {
        /// Its path or descriptor.
        name: String,
        /// Whether we would write to it.
        writes: bool,
        /// What of the same VM holds the lock, if that does.
        holder: Option<String>,
    },
    /// Bytes that fill no sector.
    #[error(
        "{name}: {size} bytes are no whole number of {block}-byte blocks, so it is empty or was cut short \
         (`truncate -s %{block} {name}` fills it up)"
    )]
    Size {
        /// Its path or descriptor.
        name: String,
        /// Its bytes.
        size: u64,
        /// Bytes of a block.
        block: u32,
    },
    /// A raw image that begins as a qcow2 image does.
    #[error("{0}: begins like a qcow2 image: say format=qcow2, or format=raw if a guest put that there")]
    Ambiguous(String),
    /// io_uring was asked for and cannot be had.
    #[error("{name}: io_uring cannot be had, {source}: leave out io=uring")]
    Uring {
        /// Its path or descriptor.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A qcow2 image that cannot be read.
    #[error("{name}: {reason}")]
    Qcow2 {
        /// Its path or descriptor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Its chain of backing files comes back to a file that is in it.
    #[error("{0}: stands on itself: its chain of overlay and backing files is a loop")]
    Loop(String),
    /// Its chain of backing files has no end.
    #[error("{name}: has more than {limit} backing files in a chain: merge some of them (`qemu-img rebase`)")]
    TooDeep {
        /// The image that is one too many.
        name: String,
        /// The limit.
        limit: usize,
    },
    /// A backing file that cannot be used.
    #[error("backing file of {of}: {source}")]
    Backing {
        /// The image that names it.
        of: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A base that its overlay cannot name.
    #[error("{name}: has no path that {overlay} could keep as its base's: give one in UTF-8, or overlay=tmp")]
    Nameless {
        /// The base.
        name: String,
        /// The overlay.
        overlay: String,
    },
    /// An overlay of another disk.
    #[error(
        "{name}: this overlay is of a disk of {overlay} bytes, the base has {base}: give the base it was made for, or another FILE"
    )]
    OverlaySize {
        /// The overlay.
        name: String,
        /// Its size in bytes.
        overlay: u64,
        /// The base's.
        base: u64,
    },
}

impl Error {
    /// Says what of the same VM holds the lock, if a lock is what is wrong.
    #[must_use]
    pub fn held_by(mut self, user: &dyn fmt::Display) -> Self {
        let mut error = &mut self;
        while let Self::Backing { source, .. } = error {
            error = source;
        }
        if let Self::Locked { holder, .. } = error {
            *holder = Some(user.to_string());
        }
        self
    }
}
