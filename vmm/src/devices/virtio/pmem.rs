//! The persistent memory device (5.19): a file in the guest's address space, which is flushed when the guest asks.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::fdatasync;
use rustix::mm::MapFlags;
use serde::{Deserialize, Serialize};
use zerocopy::{Immutable, IntoBytes, little_endian as le};

use super::{Context, DeviceKind, Error, HostMemory, VirtioDevice, read_bytes};
use crate::memory::{HUGE_PAGE, Mapping};
use crate::state::{self, Saved};

/// `virtio_pmem_req.type`, the only one.
const FLUSH: u32 = 0;
/// `virtio_pmem_resp.ret`: it is done.
const OK: u32 = 0;
/// `virtio_pmem_resp.ret`: it could not be done.
const FAILED: u32 = 1;

/// `struct virtio_pmem_config`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    start: le::U64,
    size: le::U64,
}

/// A persistent memory device.
#[derive(Debug)]
pub struct Pmem {
    mapping: Arc<Mapping>,
    readonly: bool,
    /// Absent where nothing reaches the file.
    file: Option<File>,
    config: Config,
}

/// Where it is, the machine says; the rest is configuration.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PmemState;

impl Saved for PmemState {
    const NAME: &'static str = "persistent memory device";
    const VERSION: u16 = 1;
}

/// What happens to what a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// The guest cannot.
    Refused,
    /// It is the guest's alone, and gone when the VM is.
    Private,
    /// It goes to the file.
    Shared,
}

impl Pmem {
    /// The first `len` bytes of `file`, a multiple of 2 MiB.
    pub fn new(file: File, len: u64, writes: Writes) -> io::Result<Self> {
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // A private mapping shares the host's page cache until it is written to.
        let flags =
            if writes == Writes::Shared { MapFlags::SHARED } else { MapFlags::PRIVATE | MapFlags::NORESERVE };
        let mapping = Arc::new(Mapping::new(bytes, HUGE_PAGE, flags, Some(&file))?);
        let file = (writes == Writes::Shared).then_some(file);
        let config = Config { start: 0.into(), size: len.into() };
        Ok(Self { mapping, readonly: writes == Writes::Refused, file, config })
    }
}

impl VirtioDevice for Pmem {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Pmem
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(self.config.as_bytes(), offset, data);
    }

    fn host_memory(&self) -> Option<HostMemory> {
        let len = self.config.size.get();
        Some(HostMemory { mapping: Arc::clone(&self.mapping), len, readonly: self.readonly })
    }

    fn place(&mut self, start: u64) {
        self.config.start = start.into();
    }

    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        // One flush for all that ask in a batch would do; drivers send one at a time.
        cx.serve(queue, |chain| {
            let mut kind = [0; 4];
            let (Some(request), Some(answer)) = (chain.readable.first(), chain.writable.first()) else {
                return Err(Error::Request("a request to persistent memory has two buffers"));
            };
            if request.len() < kind.len() || answer.len() < kind.len() {
                return Err(Error::Request("a request to persistent memory is too short"));
            }
            request.copy_to(&mut kind[..]);
            let flushed = || self.file.as_ref().is_none_or(|file| fdatasync(file).is_ok());
            let ret = if u32::from_le_bytes(kind) == FLUSH && flushed() { OK } else { FAILED };
            answer.copy_from(&ret.to_le_bytes());
            Ok(4)
        })
    }

    fn save(&self) -> Vec<u8> {
        state::encode(&PmemState)
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error> {
        state::decode::<PmemState>(saved).map(|PmemState| ())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::devices::virtio::testing::FakeDriver;

    const LEN: u64 = 2 << 20;

    fn device(writes: Writes) -> (tempfile::NamedTempFile, Pmem) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LEN).unwrap();
        let device = Pmem::new(file.reopen().unwrap(), LEN, writes).unwrap();
        (file, device)
    }

    #[test]
    fn says_where_it_is_and_flushes() {
        for writes in [Writes::Refused, Writes::Private, Writes::Shared] {
            let (_file, mut device) = device(writes);
            device.place(0x1_4000_0000);
            assert_eq!(device.host_memory().unwrap().readonly, writes == Writes::Refused);
            let mut driver = FakeDriver::new(Box::new(device));
            assert_eq!(driver.config(0, 16), [0x1_4000_0000_u64.to_le_bytes(), LEN.to_le_bytes()].concat());
            assert_eq!(driver.request(0, &[&[0; 4]], &[4]).data, OK.to_le_bytes());
            assert_eq!(driver.request(0, &[&[1, 0, 0, 0]], &[4]).data, FAILED.to_le_bytes());
            let mut driver = driver.restored(Box::new(self::device(writes).1));
            assert_eq!(driver.request(0, &[&[0; 4]], &[4]).data, OK.to_le_bytes());
        }
    }

    #[test]
    #[allow(unsafe_code, reason = "as the guest would write")]
    fn only_what_is_shared_reaches_the_file() {
        for (writes, reaches) in [(Writes::Private, false), (Writes::Shared, true)] {
            let (file, device) = device(writes);
            // SAFETY: the first byte of the mapping.
            unsafe { device.host_memory().unwrap().mapping.as_ptr().write_volatile(7) };
            let mut first = [0];
            file.as_file().read_at(&mut first, 0).unwrap();
            assert_eq!(first == [7], reaches, "{writes:?}");
        }
    }

    #[test]
    fn a_short_request_breaks_the_rules() {
        for (readable, writable) in [(vec![0; 3], vec![4]), (vec![0; 4], vec![3]), (vec![0; 4], vec![])] {
            let mut driver = FakeDriver::new(Box::new(device(Writes::Shared).1));
            driver.offer(0, &[&readable], &writable);
            driver.kick(0);
            assert!(driver.needs_reset(), "{readable:?} {writable:?}");
        }
    }
}
