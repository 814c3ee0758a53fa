//! The guests, and what they ask for.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Result;
use xtask::guests;

use super::super::System;

/// Does one of the requests of this number, without a VM.
pub(super) type Operation = Box<dyn FnMut(usize) -> io::Result<()>>;

/// A guest. In words, `PLACE` stands for a folder of its own.
pub(super) struct Load {
    pub guest: &'static str,
    /// What it says when all that is measured was well.
    pub says: &'static str,
    /// What it does, each loop between two marks, and how often.
    pub requests: &'static [(&'static str, u32)],
    /// Its device for jiffy.
    pub jiffy: &'static [&'static str],
    /// And for QEMU, if it is measured there.
    pub qemu: &'static [&'static str],
    /// The socket of somebody who sends back what comes.
    pub peer: Option<&'static str>,
    /// What is there before each run.
    pub prepare: fn(&Path) -> Result<()>,
    /// The same on the host itself.
    pub limit: fn(&Path) -> Result<Operation>,
}

impl Load {
    pub(super) fn has(&self, system: System) -> bool {
        system != System::Qemu || !self.qemu.is_empty()
    }
}

const BLOCK: usize = guests::BLOCK as usize;

/// All of them.
pub(super) static LOADS: [Load; 6] = [
    Load {
        guest: "block",
        says: "block: every request was answered",
        requests: &[("4 KiB read", 512), ("4 KiB write", 512), ("4 KiB read, 32 at a time", 640)],
        jiffy: &["--disk", "path=PLACE/disk"],
        qemu: &[
            "-drive",
            "file=PLACE/disk,format=raw,if=none,id=disk",
            "-device",
            "virtio-blk-device,drive=disk",
        ],
        peer: None,
        prepare: |place| Ok(fs::write(place.join("disk"), guests::disk(false))?),
        limit: |place| {
            let disk = File::options().read(true).write(true).open(place.join("disk"))?;
            let (mut block, mut number) = (vec![0; BLOCK], 0);
            Ok(Box::new(move |request| {
                number = (number + 1) % u64::from(guests::BLOCKS);
                let at = number * BLOCK as u64;
                if request == 1 { disk.write_all_at(&block, at) } else { disk.read_exact_at(&mut block, at) }
            }))
        },
    },
    Load {
        guest: "virtio",
        // Then comes a buffer that is nowhere, which QEMU's device takes.
        says: "virtio: every request was answered",
        requests: &[("64 bytes of entropy", 500)],
        jiffy: &["--rng"],
        qemu: &[
            "-object",
            "rng-random,filename=/dev/urandom,id=entropy",
            "-device",
            "virtio-rng-device,rng=entropy",
        ],
        peer: None,
        prepare: |_| Ok(()),
        limit: |_| {
            let mut random = File::open("/dev/urandom")?;
            Ok(Box::new(move |_| random.read_exact(&mut [0; 64])))
        },
    },
    Load {
        guest: "console",
        says: "console: every line was taken",
        requests: &[("64 bytes to the console", 512)],
        jiffy: &["--console-device", "virtio", "--console", "file=PLACE/console"],
        qemu: &[
            "-device",
            "virtio-serial-device",
            "-chardev",
            "file,id=console,path=PLACE/console",
            "-device",
            "virtconsole,chardev=console",
        ],
        peer: None,
        prepare: |place| Ok(fs::write(place.join("console"), [])?),
        limit: |place| {
            let mut console = File::create(place.join("console"))?;
            Ok(Box::new(move |_| console.write_all(&[b'x'; MESSAGE])))
        },
    },
    Load {
        guest: "net",
        says: "net: every frame came back",
        requests: &[("frame of 64 bytes there and back", 512)],
        jiffy: &["--net", "passt=PLACE/net"],
        qemu: &[
            "-netdev",
            "stream,id=net,server=off,addr.type=unix,addr.path=PLACE/net",
            "-device",
            "virtio-net-device,netdev=net",
        ],
        peer: Some("net"),
        prepare: |_| Ok(()),
        limit: |place| round_trip(&place.join("net"), MESSAGE + 4),
    },
    Load {
        guest: "vsock",
        says: "vsock: every message came back",
        requests: &[("vsock, 64 bytes there and back", 512)],
        jiffy: &["--vsock", "cid=3,path=PLACE/v"],
        qemu: &[],
        peer: Some("v_5000"),
        prepare: |_| Ok(()),
        limit: |place| round_trip(&place.join("v_5000"), MESSAGE),
    },
    Load {
        guest: "pmem",
        says: "pmem: every flush was answered",
        requests: &[("flush of persistent memory", 512)],
        jiffy: &["--pmem", "path=PLACE/disk"],
        qemu: &[],
        peer: None,
        prepare: |place| {
            let mut image = guests::disk(false);
            image.resize(2 << 20, 0);
            Ok(fs::write(place.join("disk"), image)?)
        },
        limit: |place| {
            let disk = File::options().write(true).open(place.join("disk"))?;
            Ok(Box::new(move |_| disk.sync_data()))
        },
    },
];

/// Bytes of a message.
const MESSAGE: usize = 64;

fn round_trip(peer: &Path, len: usize) -> Result<Operation> {
    let mut stream = UnixStream::connect(peer)?;
    let mut message = vec![0; len];
    Ok(Box::new(move |_| {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)
    }))
}

/// Sends back what comes to a socket, to one after the other who connects.
pub(super) fn echo(listener: &UnixListener) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let (mut stream, _) = listener.accept()?;
        // One who is gone hears no more.
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
    }
}
