//! Taps: network interfaces of the host, of which a program sends and receives the frames.
#![allow(unsafe_code, reason = "tun's ioctls have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use libc::{IFNAMSIZ, c_int, c_short, c_ulong, ifreq};
use rustix::net::{AddressFamily, SocketType, socket};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
};

use super::backend::{Backend, HEADER, Outcome};
use crate::devices::virtio::scatter::{readv, writev};
use crate::memory::Slice;

const DEVICE: &str = "/dev/net/tun";

/// Features of the device, and what the kernel is to do for each with frames for the guest.
const OFFLOADS: [(u32, u32); 6] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
    (VIRTIO_NET_F_GUEST_USO4, libc::TUN_F_USO4),
    (VIRTIO_NET_F_GUEST_USO6, libc::TUN_F_USO6),
];
/// What the kernel takes of the guest, whatever it was told.
const ALWAYS: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN;
/// From Linux 6.2 on, with the offloads of the same name.
const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// All that a tap can do.
#[cfg(any(test, feature = "testing"))]
pub(super) const ALL_FEATURES: u64 = ALWAYS
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6
    | 1 << VIRTIO_NET_F_HOST_USO;

/// A tap, by one descriptor for each pair of queues.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<OwnedFd>,
    attached: Vec<bool>,
    name: [u8; IFNAMSIZ],
    flags: c_short,
    /// The offloads that it knows.
    known: u32,
}

fn ioctl(fd: &impl AsFd, request: c_ulong, value: c_ulong) -> io::Result<()> {
    // SAFETY: the requests that are given here take their argument by value.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, value) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn ioctl_int(fd: &impl AsFd, request: c_ulong, value: c_int) -> io::Result<()> {
    // SAFETY: the requests that are given here read an integer.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw const value) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn ioctl_ifreq(fd: &impl AsFd, request: c_ulong, value: &mut ifreq) -> io::Result<()> {
    // SAFETY: the requests that are given here read and write a `struct ifreq`.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut *value) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn request(name: &[u8; IFNAMSIZ]) -> ifreq {
    // SAFETY: all fields are integers and pointers, for which zero is a value.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name = name.map(u8::cast_signed);
    request
}

fn flags(request: &ifreq) -> c_short {
    // SAFETY: whatever the kernel has written there, it is an integer.
    unsafe { request.ifr_ifru.ifru_flags }
}

impl Tap {
    /// Attaches to the interface `name`, which is made if it is not there, by `pairs` pairs of queues.
    pub fn open(name: &str, pairs: u16) -> io::Result<Self> {
        let mut bytes = [0; IFNAMSIZ];
        bytes.get_mut(..name.len()).ok_or(io::ErrorKind::InvalidFilename)?.copy_from_slice(name.as_bytes());
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let flags = (flags | if pairs > 1 { libc::IFF_MULTI_QUEUE } else { 0 }) as c_short;
        let mut queues = Vec::new();
        for _ in 0..pairs {
            let file = File::options().read(true).write(true).open(DEVICE).map_err(|e| {
                io::Error::other(format!("{DEVICE}: {e}: load the module tun, or ask for permission"))
            })?;
            let queue = OwnedFd::from(file);
            attach(&queue, &bytes, flags)?;
            queues.push(queue);
        }
        Self::new(queues, bytes, flags)
    }

    /// Takes over descriptors of a tap, one for each pair of queues.
    pub fn adopt(queues: Vec<OwnedFd>) -> io::Result<Self> {
        let mut found = None;
        for queue in &queues {
            let mut request = request(&[0; IFNAMSIZ]);
            ioctl_ifreq(queue, libc::TUNGETIFF as c_ulong, &mut request)
                .map_err(|_| io::Error::other("is no descriptor of a tap"))?;
            let (name, flags) = (request.ifr_name.map(i8::cast_unsigned), flags(&request));
            let wanted = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
            if flags & wanted != wanted {
                return Err(io::Error::other("is no tap with IFF_NO_PI and IFF_VNET_HDR: make it so"));
            }
            found = Some((name, flags));
        }
        let (name, flags) = found.ok_or(io::ErrorKind::InvalidInput)?;
        // What was asked for when it was made, without what the kernel adds to tell more.
        let asked = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        Self::new(queues, name, flags & asked as c_short)
    }

    fn new(queues: Vec<OwnedFd>, name: [u8; IFNAMSIZ], flags: c_short) -> io::Result<Self> {
        for queue in &queues {
            prepare(queue)?;
        }
        let first = queues.first().ok_or(io::ErrorKind::InvalidInput)?;
        let all = OFFLOADS.iter().fold(0, |all, (_, offload)| all | offload);
        let known =
            if ioctl(first, libc::TUNSETOFFLOAD as c_ulong, all.into()).is_ok() { all } else { all & !USO };
        ioctl(first, libc::TUNSETOFFLOAD as c_ulong, 0)?;
        let attached = vec![true; queues.len()];
        let tap = Self { queues, attached, name, flags, known };
        tap.bring_up();
        Ok(tap)
    }

    /// Sets the interface's MTU.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let mut request = request(&self.name);
        ioctl_ifreq(&socket, libc::SIOCGIFMTU as c_ulong, &mut request)?;
        // SAFETY: the kernel has just written this field.
        if unsafe { request.ifr_ifru.ifru_mtu } == c_int::from(mtu) {
            return Ok(());
        }
        request.ifr_ifru.ifru_mtu = mtu.into();
        ioctl_ifreq(&socket, libc::SIOCSIFMTU as c_ulong, &mut request)
    }

    /// An interface that is down passes no frames. Who may not change that has been given one that is up.
    fn bring_up(&self) {
        let Ok(socket) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return };
        let mut request = request(&self.name);
        if ioctl_ifreq(&socket, libc::SIOCGIFFLAGS as c_ulong, &mut request).is_ok() {
            request.ifr_ifru.ifru_flags = flags(&request) | libc::IFF_UP as c_short;
            let _ = ioctl_ifreq(&socket, libc::SIOCSIFFLAGS as c_ulong, &mut request);
        }
    }

    fn exists(&self) -> bool {
        let exists = |socket| ioctl_ifreq(&socket, libc::SIOCGIFINDEX as c_ulong, &mut request(&self.name));
        socket(AddressFamily::INET, SocketType::DGRAM, None).is_ok_and(|socket| exists(socket).is_ok())
    }
}

fn attach(queue: &OwnedFd, name: &[u8; IFNAMSIZ], flags: c_short) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags;
    ioctl_ifreq(queue, libc::TUNSETIFF as c_ulong, &mut request).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => io::Error::other("is in use by another program"),
        Some(libc::EPERM) => io::Error::other(
            "no permission: make it beforehand with `ip tuntap add NAME mode tap user USER`, or use passt",
        ),
        Some(libc::EINVAL) => io::Error::other(
            "is not a tap, or has another number of queues: `ip tuntap add NAME mode tap` for one, with \
             `multi_queue` for more",
        ),
        _ => e,
    })
}

/// Frames come and go with the virtio header in front, and nobody waits.
fn prepare(queue: &OwnedFd) -> io::Result<()> {
    ioctl_int(queue, libc::TUNSETVNETHDRSZ as c_ulong, HEADER as c_int)?;
    rustix::io::ioctl_fionbio(queue, true)?;
    Ok(())
}

impl Backend for Tap {
    fn features(&self) -> u64 {
        let known = OFFLOADS.iter().filter(|(_, offload)| self.known & offload != 0);
        let uso = if self.known & USO == USO { 1 << VIRTIO_NET_F_HOST_USO } else { 0 };
        known.fold(ALWAYS | uso, |all, (feature, _)| all | 1 << feature)
    }

    fn pairs(&self) -> u16 {
        self.queues.len() as u16
    }

    fn configure(&mut self, features: u64, pairs: u16) -> io::Result<()> {
        let wanted = OFFLOADS.iter().filter(|(feature, _)| features >> feature & 1 == 1);
        let offloads = wanted.fold(0, |all, (_, offload)| all | offload);
        for (index, queue) in self.queues.iter().enumerate() {
            let wanted = index < usize::from(pairs);
            if self.queues.len() > 1 && self.attached[index] != wanted {
                let mut request = request(&[0; IFNAMSIZ]);
                let flag = if wanted { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
                request.ifr_ifru.ifru_flags = flag as c_short;
                ioctl_ifreq(queue, libc::TUNSETQUEUE as c_ulong, &mut request)?;
                self.attached[index] = wanted;
            }
        }
        ioctl(&self.queues[0], libc::TUNSETOFFLOAD as c_ulong, offloads.into())
    }

    fn descriptor(&self, pair: u16) -> Option<RawFd> {
        self.queues.get(usize::from(pair)).map(AsRawFd::as_raw_fd)
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn send(&mut self, pair: u16, packet: &[Slice<'_>]) -> Outcome<()> {
        let Some(queue) = self.queues.get(usize::from(pair)) else { return Outcome::Done(()) };
        match writev(queue, packet) {
            Ok(_) => Outcome::Done(()),
            Err(e) if e.raw_os_error() == Some(libc::EBADFD) => Outcome::Gone,
            // A frame that is none, or for which there is no room: networks lose frames.
            Err(_) => Outcome::Done(()),
        }
    }

    fn receive(&mut self, pair: u16, buffers: &[Slice<'_>], spill: &mut [u8]) -> Outcome<usize> {
        let Some(queue) = self.queues.get(usize::from(pair)) else { return Outcome::Wait };
        loop {
            match readv(queue, buffers, spill) {
                Ok(len) => return Outcome::Done(len),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::EBADFD) => return Outcome::Gone,
                // Nothing there, or the interface is down for now.
                Err(_) => return Outcome::Wait,
            }
        }
    }

    fn hang_up(&mut self) {}

    fn reconnect(&mut self) -> bool {
        if !self.exists() {
            return false;
        }
        let again = |queue: &OwnedFd| attach(queue, &self.name, self.flags).and_then(|()| prepare(queue));
        let done = self.queues.iter().try_for_each(again).is_ok();
        if done {
            self.attached.fill(true);
            self.bring_up();
        }
        done
    }
}
