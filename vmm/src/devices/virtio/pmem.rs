//! The persistent memory device (5.19): a file in the guest's address space, which is flushed when the guest asks.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::fdatasync;
use rustix::mm::MapFlags;
use serde::{Deserialize, Serialize};
use zerocopy::{Immutable, IntoBytes, little_endian as le};

use super::scatter::{copy_in, copy_out};
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
            if copy_out(&chain.readable, 0, &mut kind) < kind.len() {
                return Err(Error::Request("a request to persistent memory is too short"));
            }
            let flushed = || self.file.as_ref().is_none_or(|file| fdatasync(file).is_ok());
            let ret = if u32::from_le_bytes(kind) == FLUSH && flushed() { OK } else { FAILED };
            if copy_in(&chain.writable, 0, &ret.to_le_bytes()) < size_of_val(&ret) {
                return Err(Error::Request("a request to persistent memory has no room for its answer"));
            }
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

    use proptest::prelude::*;

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

    #[test]
    fn a_flush_that_fails_is_told() {
        // It can be mapped, and cannot be synchronised.
        let file = || File::options().read(true).write(true).open("/dev/zero").unwrap();
        for (writes, ret) in [(Writes::Shared, FAILED), (Writes::Private, OK)] {
            let device = Pmem::new(file(), LEN, writes).unwrap();
            let mut driver = FakeDriver::new(Box::new(device));
            assert_eq!(driver.request(0, &[&[0; 4]], &[4]).data, ret.to_le_bytes(), "{writes:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        GuestWrites(usize, usize, u8),
        HostWrites(usize, usize, u8),
        /// Requests of these types, some of them by indirect tables, all at once.
        Ask(Vec<(u8, bool)>),
        Reset,
        /// The device goes on elsewhere, on the same file.
        Snapshot,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let place = || (0..LEN as usize - 9000, 1_usize..9000, any::<u8>());
        let step = prop_oneof![
            4 => place().prop_map(|(at, len, fill)| Step::GuestWrites(at, len, fill)),
            2 => place().prop_map(|(at, len, fill)| Step::HostWrites(at, len, fill)),
            4 => prop::collection::vec((prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], any::<bool>()), 1..9)
                .prop_map(Step::Ask),
            1 => Just(Step::Reset),
            1 => Just(Step::Snapshot),
        ];
        prop::collection::vec(step, 1..24)
    }

    /// What the guest sees, and what it writes.
    #[allow(unsafe_code, reason = "as the guest would")]
    fn guest(mapping: &Mapping, write: Option<(usize, &[u8])>) -> Vec<u8> {
        if let Some((at, bytes)) = write {
            // SAFETY: `at` and what follows are in the mapping, which nobody else uses.
            unsafe { mapping.as_ptr().wrapping_add(at).copy_from(bytes.as_ptr(), bytes.len()) };
        }
        let mut seen = vec![0; LEN as usize];
        // SAFETY: so many bytes are mapped.
        unsafe { seen.as_mut_ptr().copy_from(mapping.as_ptr(), seen.len()) };
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// The guest's view and the file are the same, or go apart where the guest's writes are its own.
        #[test]
        fn a_file_in_memory(
            writes in prop::sample::select(&[Writes::Refused, Writes::Private, Writes::Shared][..]),
            steps in steps(),
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut kept: Vec<u8> = (0..LEN as usize).map(|at| (at / 4096) as u8 | 1).collect();
            file.as_file().write_all_at(&kept, 0).unwrap();
            let open = || Pmem::new(file.reopen().unwrap(), LEN, writes).unwrap();
            let device = open();
            let (mut mapping, mut seen) = (device.host_memory().unwrap().mapping, kept.clone());
            let mut driver = FakeDriver::new(Box::new(device));
            for step in steps {
                match step {
                    Step::GuestWrites(..) if writes == Writes::Refused => {}
                    Step::GuestWrites(at, len, fill) => {
                        guest(&mapping, Some((at, &vec![fill; len])));
                        seen[at..at + len].fill(fill);
                        if writes == Writes::Shared {
                            kept[at..at + len].fill(fill);
                        }
                    }
                    // Whether a private mapping sees it is open.
                    Step::HostWrites(..) if writes == Writes::Private => {}
                    Step::HostWrites(at, len, fill) => {
                        file.as_file().write_all_at(&vec![fill; len], at as u64).unwrap();
                        kept[at..at + len].fill(fill);
                        seen[at..at + len].fill(fill);
                    }
                    Step::Ask(asks) => {
                        let offer = |(kind, indirect): &(u8, bool)| {
                            let (request, room) = ([&[*kind][..], &[0; 3]], [3, 6]);
                            match indirect {
                                true => driver.offer_indirect(0, &request, &room),
                                false => driver.offer(0, &request, &room),
                            }
                        };
                        let heads: Vec<u16> = asks.iter().map(offer).collect();
                        driver.kick(0);
                        for ((kind, _), head) in asks.iter().zip(heads) {
                            let used = driver.take(0).expect("an answer");
                            let ret = if *kind == 0 { OK } else { FAILED }.to_le_bytes();
                            prop_assert_eq!((used.head, used.written, &used.data[..4]), (head, 4, &ret[..]));
                            prop_assert_eq!(&used.data[4..], &[0xaa; 5], "no more than it says");
                        }
                    }
                    Step::Reset => driver.initialise(u64::MAX),
                    Step::Snapshot => {
                        let device = open();
                        mapping = device.host_memory().unwrap().mapping;
                        driver = driver.restored(Box::new(device));
                        seen.clone_from(&kept);
                    }
                }
                prop_assert!(guest(&mapping, None) == seen, "the guest sees something else");
                let mut found = vec![0; LEN as usize];
                file.as_file().read_exact_at(&mut found, 0).unwrap();
                prop_assert!(found == kept, "the file has something else");
            }
        }
    }
}
