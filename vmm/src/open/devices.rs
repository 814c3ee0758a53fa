//! The constructor table of virtio devices: each kind once, with its files open. A new kind adds its line here.

use super::{Error, Taken};
use crate::config::{CacheMode, DevicesSpec, DiskConfig, Serial, TransportKind};
use crate::devices::rate::RateLimiter;
use crate::devices::virtio::{Block, BlockOptions, Entropy, VirtioDevice};
use crate::disk::{self, Chain};
use crate::machine::Attachment;

/// Opens what the devices need, and makes them.
pub(super) fn open(spec: &DevicesSpec, taken: &mut Taken) -> Result<Vec<Attachment>, Error> {
    let DevicesSpec { transport, disks, rng } = spec;
    let attach = |name: String, own: Option<TransportKind>, device: Box<dyn VirtioDevice>| Attachment {
        name,
        transport: own.unwrap_or(*transport),
        device,
    };
    let mut all = Vec::new();
    for (disk, index) in disks.iter().zip(0..) {
        all.push(attach(format!("disk{index}"), disk.transport, Box::new(block(disk, index, taken)?)));
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
