//! The constructor table of virtio devices: each kind once, with its files open. A new kind adds its line here.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Claim, Consoles, Error, Taken, Use};
use crate::config::{
    CacheMode, DevicesSpec, DiskConfig, FileRef, Mtu, NetConfig, Overlay, PmemConfig, Serial, TapRef,
    TransportKind, VsockConfig,
};
use crate::devices::rate::RateLimiter;
use crate::devices::virtio::{
    Block, BlockOptions, Endpoint, Entropy, Net, NetBackend as Backend, NetOptions, Pmem, PmemWrites, Stream,
    Tap, VirtioDevice, Vsock,
};
use crate::disk::{self, Chain, Image, Opened};
use crate::machine::Attachment;
use crate::memory::HUGE_PAGE;

/// All files that the devices name, each with its flag.
pub(super) fn files(spec: &DevicesSpec) -> impl Iterator<Item = (&'static str, &FileRef)> {
    let DevicesSpec { transport: _, disks, nets, pmem, vsock, rng: _, console: _, ports } = spec;
    let disks = disks.iter().flat_map(|disk| {
        let overlay = if let Some(Overlay::File(file)) = &disk.overlay { Some(file) } else { None };
        std::iter::once(&disk.path).chain(overlay).map(|file| ("--disk", file))
    });
    let nets = nets.iter().flat_map(|net| {
        let fds = if let Some(TapRef::Fds(fds)) = &net.tap { fds.as_slice() } else { &[] };
        fds.iter().chain(&net.passt).map(|file| ("--net", file))
    });
    let ports = ports.iter().map(|port| ("--port", &port.file));
    let pmem = pmem.iter().map(|pmem| ("--pmem", &pmem.path));
    disks.chain(nets).chain(pmem).chain(ports).chain(vsock.iter().map(|vsock| ("--vsock", &vsock.path)))
}

/// Opens what the devices need, and makes them. Files that consoles write to come after those that are read, since they
/// are emptied.
pub(super) fn open(spec: &DevicesSpec, taken: &mut Taken) -> Result<(Vec<Attachment>, Consoles), Error> {
    let DevicesSpec { transport, disks, nets, pmem, vsock, rng, console: _, ports: _ } = spec;
    let attach = |name: String, own: Option<TransportKind>, device: Box<dyn VirtioDevice>| Attachment {
        name,
        transport: own.unwrap_or(*transport),
        device,
    };
    let mut all = Vec::new();
    for (disk, index) in disks.iter().zip(0..) {
        let claim = Claim::one_of("--disk", index, disks.len());
        all.push(attach(format!("disk{index}"), disk.transport, Box::new(block(disk, index, claim, taken)?)));
    }
    for (net, index) in nets.iter().zip(0..) {
        all.push(attach(format!("net{index}"), net.transport, Box::new(open_net(net)?)));
    }
    for (config, index) in pmem.iter().zip(0..) {
        let device = persistent_memory(config, Claim::one_of("--pmem", index, pmem.len()), taken)?;
        all.push(attach(format!("pmem{index}"), config.transport, Box::new(device)));
    }
    if let Some(config) = vsock {
        all.push(attach("vsock".to_owned(), config.transport, Box::new(open_vsock(config)?)));
    }
    let consoles = Consoles::open(spec, taken)?;
    all.extend(consoles.device()?.map(|console| attach("console".to_owned(), None, Box::new(console))));
    all.extend(rng.iter().map(|rng| attach("rng".to_owned(), rng.transport, Box::new(Entropy))));
    Ok((all, consoles))
}

/// What is wrong with an image, the last of a chain. A lock that conflicts may be that of another device of ours.
fn refused(claim: Claim, source: disk::Error, chain: &Chain, taken: &Taken) -> Error {
    let holder = chain.images.last().and_then(|image| holder(image, taken));
    let source = match holder {
        Some(holder) => source.held_by(&holder),
        None => source,
    };
    Error::Disk { flag: claim.flag, source }
}

/// What of ours has an image, if that and this one cannot go together.
fn holder(image: &Image, taken: &Taken) -> Option<Claim> {
    let conflicts = |other: &&Use| {
        other.identity == image.identity && other.image.is_some_and(|writes| writes || image.writes)
    };
    taken.uses.iter().find(conflicts).map(|other| other.claim)
}

/// Takes the images of a device. Locks do not tell one descriptor of an open file from another.
fn take(claim: Claim, chain: Chain, taken: &mut Taken) -> Result<(), Error> {
    for image in chain.images {
        if let Some(holder) = holder(&image, taken) {
            let Image { name, writes, .. } = image;
            let source = disk::Error::Locked { name, writes, holder: Some(holder.to_string()) };
            return Err(Error::Disk { flag: claim.flag, source });
        }
        taken.uses.push(Use { claim, identity: image.identity, image: Some(image.writes) });
    }
    Ok(())
}

/// A block device. One without a serial number of its own has its place among the disks for one.
fn block(config: &DiskConfig, index: usize, claim: Claim, taken: &mut Taken) -> Result<Block, Error> {
    let mut chain = Chain::default();
    let disk = disk::open(config, &mut chain).map_err(|source| refused(claim, source, &chain, taken))?;
    take(claim, chain, taken)?;
    let limiter = RateLimiter::new(&config.rate()).map_err(|source| Error::Open {
        flag: claim.flag,
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

/// A network card.
fn open_net(config: &NetConfig) -> Result<Net, Error> {
    let name = match (&config.tap, &config.passt) {
        (Some(tap), _) => tap.to_string(),
        (None, passt) => passt.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    make_net(config).map_err(|source| Error::Open { flag: "--net", name, source })
}

fn make_net(config: &NetConfig) -> io::Result<Net> {
    let backend: Box<dyn Backend> = match (&config.tap, &config.passt) {
        (Some(tap), _) => {
            let tap = match tap {
                TapRef::Name(name) => Tap::open(name, config.pairs())?,
                TapRef::Fds(fds) => {
                    let open = |fd: &FileRef| fd.open().map(OwnedFd::from);
                    Tap::adopt(fds.iter().map(open).collect::<io::Result<_>>()?)?
                }
            };
            config.mtu.map_or(Ok(()), |mtu| tap.set_mtu(mtu.get()))?;
            Box::new(tap)
        }
        (None, Some(FileRef::Path(path))) => Box::new(Stream::connect(path)?),
        (None, Some(fd)) => Box::new(Stream::adopt(fd.open()?.into())?),
        (None, None) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mac = config.mac.map_or_else(random_mac, |mac| Ok(mac.bytes()))?;
    let [receive, transmit] = config.rates().map(|rate| RateLimiter::new(&rate));
    let (receive, transmit) = (receive?, transmit?);
    Net::new(backend, NetOptions { mac, mtu: config.mtu.map(Mtu::get), receive, transmit })
}

/// A hardware address that nobody has given out: locally administered, of one card.
fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    getrandom(&mut mac, GetRandomFlags::empty())?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}

/// A socket device.
fn open_vsock(config: &VsockConfig) -> Result<Vsock, Error> {
    let endpoint = match &config.path {
        FileRef::Path(path) => Endpoint::bind(path),
        fd @ FileRef::Fd(_) => fd.open().and_then(|file| Endpoint::adopt(file.into())),
    };
    let name = config.path.to_string();
    let endpoint = endpoint.map_err(|source| Error::Open { flag: "--vsock", name, source })?;
    // Each stream is a descriptor, and there may be more of them than programs are granted unasked.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    Ok(Vsock::new(config.cid.get(), Box::new(endpoint)))
}

fn persistent_memory(config: &PmemConfig, claim: Claim, taken: &mut Taken) -> Result<Pmem, Error> {
    let flag = claim.flag;
    let writes = match config {
        PmemConfig { readonly: true, .. } => PmemWrites::Refused,
        PmemConfig { private: true, .. } => PmemWrites::Private,
        _ => PmemWrites::Shared,
    };
    let mut chain = Chain::default();
    let image = Opened::new(&config.path, writes == PmemWrites::Shared, false, &mut chain)
        .map_err(|source| refused(claim, source, &chain, taken))?;
    take(claim, chain, taken)?;
    let len = image.whole(HUGE_PAGE as u32).map_err(|source| Error::Disk { flag, source })?;
    let name = image.name.clone();
    Pmem::new(image.file, len, writes).map_err(|source| Error::Open { flag, name, source })
}
