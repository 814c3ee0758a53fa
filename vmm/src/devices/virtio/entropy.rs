//! The entropy device (5.4): the driver's buffers are filled by the host's random number generator.

use rustix::rand::{GetRandomFlags, getrandom};

use super::{Context, DeviceKind, Error, VirtioDevice};
use crate::state::{self, Saved};

/// Bytes that one request gets at most: a driver that wants more asks again.
const MOST: usize = 4096;

/// Fills buffers with random bytes. It has no state.
#[derive(Debug, Default)]
pub struct Entropy;

/// Nothing to save.
#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct EntropyState;

impl Saved for EntropyState {
    const NAME: &'static str = "entropy device";
    const VERSION: u16 = 1;
}

impl VirtioDevice for Entropy {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Entropy
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        cx.serve(queue, |chain| {
            let mut left = MOST;
            for buffer in &chain.writable {
                let mut random = [0; MOST];
                let len = left.min(buffer.len());
                // Never short up to 256 bytes, and otherwise only when a signal comes in between (getrandom(2)).
                let filled = getrandom(&mut random[..len], GetRandomFlags::empty()).unwrap_or(0);
                buffer.copy_from(&random[..filled]);
                left -= filled;
                if filled < len || left == 0 {
                    break;
                }
            }
            Ok((MOST - left) as u32)
        })
    }

    fn save(&self) -> Vec<u8> {
        state::encode(&EntropyState)
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error> {
        state::decode::<EntropyState>(saved).map(|EntropyState| ())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::devices::virtio::testing::{BUFFERS, FakeDriver};

    #[test]
    fn fills_every_buffer() {
        let mut driver = FakeDriver::new(Box::new(Entropy));
        let used = driver.request(0, &[], &[100, 28]);
        assert_eq!(used.written, 128);
        assert_ne!(used.data, driver.request(0, &[], &[100, 28]).data);
        assert_eq!(driver.interrupts(0), 2);
        let used = driver.request(0, &[], &[3 * MOST]);
        assert_eq!(used.written as usize, MOST);
        assert!(used.data[MOST..].iter().all(|&byte| byte == 0xaa), "no more than it says");
    }

    #[test]
    fn buffers_that_it_can_only_read_come_back_empty() {
        let mut driver = FakeDriver::new(Box::new(Entropy));
        assert_eq!(driver.request(0, &[b"seed"], &[]).written, 0);
        assert!(!driver.needs_reset());
    }

    #[test]
    fn goes_on_after_a_restore() {
        let mut driver = FakeDriver::new(Box::new(Entropy));
        driver.request(0, &[], &[8]);
        let head = driver.offer(0, &[], &[8]);
        let mut driver = driver.restored(Box::new(Entropy));
        assert_eq!(driver.take(0).map(|used| (used.head, used.written)), Some((head, 8)), "without a ring");
        assert_eq!(driver.request(0, &[], &[8]).written, 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Every chain gets as much as it has room for, up to the most there is, nothing else is touched, and nothing comes
        /// twice.
        #[test]
        fn as_much_as_there_is_room_for(
            chains in prop::collection::vec(
                (prop::collection::vec(prop_oneof![1_usize..64, 1_usize..5000], 0..5), any::<bool>(), any::<bool>()),
                1..12,
            ),
        ) {
            const SEED: &[u8] = b"what the device reads";
            let mut driver = FakeDriver::new(Box::new(Entropy));
            let heads: Vec<u16> = chains.iter().map(|(lens, reads, indirect)| {
                let readable = if *reads || lens.is_empty() { &[SEED][..] } else { &[] };
                match indirect {
                    true => driver.offer_indirect(0, readable, lens),
                    false => driver.offer(0, readable, lens),
                }
            }).collect();
            let memory = |driver: &FakeDriver| {
                let mut bytes = vec![0; 512 << 10];
                driver.memory.read(BUFFERS, &mut bytes).unwrap();
                bytes
            };
            let before = memory(&driver);
            driver.kick(0);
            let changed = memory(&driver).iter().zip(&before).filter(|(now, before)| now != before).count();
            let (mut seen, mut changes) = (HashSet::new(), 0);
            for ((lens, ..), head) in chains.iter().zip(heads) {
                let used = driver.take(0).expect("an answer");
                let len = lens.iter().sum::<usize>().min(MOST);
                prop_assert_eq!((used.head, used.written as usize), (head, len));
                let (random, rest) = used.data.split_at(len);
                prop_assert!(rest.iter().all(|&byte| byte == 0xaa), "no more than it says");
                changes += random.iter().filter(|&&byte| byte != 0xaa).count();
                for part in random.chunks_exact(8) {
                    prop_assert!(seen.insert(part.to_vec()), "{part:?} came before");
                }
            }
            prop_assert_eq!(changed, changes, "something outside of the chains was written to");
        }
    }
}
