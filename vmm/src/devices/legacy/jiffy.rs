//! Jiffy's own ports: timeline and exit status (`abi::ports`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use abi::ports;
use abi::timeline::Mark;
use serde::{Deserialize, Serialize};

use crate::bus::{BusDevice, Effect};
use crate::state::{self, Saved};
use crate::timeline::Timeline;

const NO_STATUS: u16 = u16::MAX;

/// The ports from [`ports::JIFFY`] on.
#[derive(Debug)]
pub struct JiffyPorts {
    timeline: Arc<Timeline>,
    status: AtomicU16,
}

/// What of it goes into a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct JiffyPortsState {
    status: Option<u8>,
}

impl Saved for JiffyPortsState {
    const NAME: &'static str = "jiffy ports";
    const VERSION: u16 = 1;
}

impl JiffyPorts {
    /// Ports that write marks to `timeline`.
    #[must_use]
    pub fn new(timeline: Arc<Timeline>) -> Self {
        Self { timeline, status: AtomicU16::new(NO_STATUS) }
    }

    /// The exit status that the guest reported last.
    #[must_use]
    pub fn status(&self) -> Option<u8> {
        u8::try_from(self.status.load(Ordering::Acquire)).ok()
    }
}

impl BusDevice for JiffyPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (0, Ok(data)) = (offset, <&mut [u8; 4]>::try_from(data)) {
            *data = self.timeline.elapsed_us().to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        const STATUS: u64 = (ports::EXIT_STATUS - ports::JIFFY) as u64;
        match (offset, data) {
            (0, &[mark]) => self.timeline.mark(Mark(mark)),
            (STATUS, &[status]) => self.status.store(status.into(), Ordering::Release),
            _ => {}
        }
        Effect::None
    }

    /// The timeline is not saved: it tells of this process.
    fn save(&self) -> Option<Vec<u8>> {
        let Self { timeline: _, status: _ } = self;
        Some(state::encode(&JiffyPortsState { status: self.status() }))
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        let JiffyPortsState { status } = state::decode(saved)?;
        self.status.store(status.map_or(NO_STATUS, u16::from), Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_status_also_over_a_restore() {
        let ports = JiffyPorts::new(Arc::new(Timeline::begin(None, true)));
        assert_eq!(ports.status(), None);
        ports.write(4, &[3]);
        ports.write(4, &[0xff]);
        ports.write(4, &[1, 0]);
        assert_eq!(ports.status(), Some(0xff), "bytes only");
        let restored = JiffyPorts::new(Arc::new(Timeline::begin(None, true)));
        restored.restore(&ports.save().unwrap()).unwrap();
        assert_eq!(restored.status(), Some(0xff));
    }

    #[test]
    fn tells_the_time_in_four_bytes_only() {
        let ports = JiffyPorts::new(Arc::new(Timeline::begin(None, true)));
        let mut word = [0xff; 2];
        ports.read(0, &mut word);
        assert_eq!(word, [0xff; 2]);
        let mut long = [0xff; 4];
        ports.read(0, &mut long);
        assert_ne!(long, [0xff; 4]);
    }
}
