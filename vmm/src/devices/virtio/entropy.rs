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
    use super::*;
    use crate::devices::virtio::testing::FakeDriver;

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
}
