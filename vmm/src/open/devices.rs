//! The constructor table of virtio devices: each kind once, with its files open. A new kind adds its line here.

use super::{Error, Taken};
use crate::config::{
    CacheMode, DevicesSpec, DiskConfig, FileRef, Overlay, Serial, TransportKind, VsockConfig,
};
use crate::devices::rate::RateLimiter;
use crate::devices::virtio::{Block, BlockOptions, Endpoint, Entropy, VirtioDevice, Vsock};
use crate::disk::{self, Chain};
use crate::machine::Attachment;

/// All files that the devices name, each with its flag.
pub(super) fn files(spec: &DevicesSpec) -> impl Iterator<Item = (&'static str, &FileRef)> {
    let DevicesSpec { transport: _, disks, vsock, rng: _ } = spec;
    let disks = disks.iter().flat_map(|disk| {
        let overlay = if let Some(Overlay::File(file)) = &disk.overlay { Some(file) } else { None };
        std::iter::once(&disk.path).chain(overlay).map(|file| ("--disk", file))
    });
    disks.chain(vsock.iter().map(|vsock| ("--vsock", &vsock.path)))
}

/// Opens what the devices need, and makes them.
pub(super) fn open(spec: &DevicesSpec, taken: &mut Taken) -> Result<Vec<Attachment>, Error> {
    let DevicesSpec { transport, disks, vsock, rng } = spec;
    let attach = |name: String, own: Option<TransportKind>, device: Box<dyn VirtioDevice>| Attachment {
        name,
        transport: own.unwrap_or(*transport),
        device,
    };
    let mut all = Vec::new();
    for (disk, index) in disks.iter().zip(0..) {
        all.push(attach(format!("disk{index}"), disk.transport, Box::new(block(disk, index, taken)?)));
    }
    if let Some(config) = vsock {
        all.push(attach("vsock".to_owned(), config.transport, Box::new(open_vsock(config)?)));
    }
    all.extend(rng.iter().map(|rng| attach("rng".to_owned(), rng.transport, Box::new(Entropy))));
    Ok(all)
}

/// A block device. One without a serial number of its own has its place among the disks for one.
fn block(config: &DiskConfig, index: usize, taken: &mut Taken) -> Result<Block, Error> {
    const FLAG: &str = "--disk";
    let mut images = Chain::default();
    let disk = disk::open(config, &mut images)?;
    taken.extend(images.0.into_iter().map(|image| (FLAG, image)));
    let limiter = RateLimiter::new(&config.rate()).map_err(|source| Error::Open {
        flag: FLAG,
        name: config.path.to_string(),
        source,
    })?;
    let default = || format!("disk{index}").parse().ok();
    let options = BlockOptions {
        queues: config.queues.map_or(1, |queues| queues.get().into()),
        id: config.serial.clone().or_else(default).as_ref().map(Serial::bytes).unwrap_or_default(),
        writeback: config.cache == CacheMode::Writeback,
        sync: config.cache != CacheMode::Unsafe,
        limiter,
    };
    Ok(Block::new(disk, options))
}

/// A socket device.
fn open_vsock(config: &VsockConfig) -> Result<Vsock, Error> {
    let endpoint = match &config.path {
        FileRef::Path(path) => Endpoint::bind(path),
        fd @ FileRef::Fd(_) => fd.open().and_then(|file| Endpoint::adopt(file.into())),
    };
    let name = config.path.to_string();
    let endpoint = endpoint.map_err(|source| Error::Open { flag: "--vsock", name, source })?;
    Ok(Vsock::new(config.cid.get(), endpoint))
}
