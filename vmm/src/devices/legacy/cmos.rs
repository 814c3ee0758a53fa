//! CMOS memory and the real-time clock in it: MC146818, as PCs have it, read-only. A guest that finds no clock
//! here waits a second for one.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::bus::{BusDevice, Effect};
use crate::state::{self, Saved};

/// Status A: divider on, no update in progress.
const STATUS_A: u8 = 0x26;
/// Status B: 24 hours, binary-coded decimal (Linux takes that for granted on a PC).
const STATUS_B: u8 = 0x02;
/// Status D: the battery is good.
const STATUS_D: u8 = 0x80;

/// Index and data port, from 0x70 on.
#[derive(Debug)]
pub struct Cmos {
    index: Mutex<u8>,
    /// KiB between 1 MiB and 64 MiB, and units of 64 KiB between 16 MiB and 4 GiB, as BIOSes store them.
    memory: [u16; 2],
    now: fn() -> u64,
}

/// What of it goes into a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CmosState {
    index: u8,
}

impl Saved for CmosState {
    const NAME: &'static str = "CMOS";
    const VERSION: u16 = 1;
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Cmos {
    /// CMOS of a machine with `low` bytes of RAM below the hole, if the guest is to find sizes here at all.
    #[must_use]
    pub fn new(low: Option<u64>) -> Self {
        let clamp = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
        let memory = low.map_or([0; 2], |low| {
            [
                clamp((low.saturating_sub(1 << 20) >> 10).min(63 << 10)),
                clamp(low.saturating_sub(16 << 20) >> 16),
            ]
        });
        Self { index: Mutex::new(0), memory, now: unix_time }
    }

    fn index(&self) -> u8 {
        *self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_index(&self, index: u8) {
        *self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = index & 0x7f;
    }

    fn register(&self, index: u8) -> u8 {
        let [extended, above_16m] = self.memory.map(u16::to_le_bytes);
        let base_memory = if self.memory[0] == 0 { [0; 2] } else { 640u16.to_le_bytes() };
        match index {
            0x00 | 0x02 | 0x04 | 0x06..=0x09 | 0x32 => self.clock(index),
            0x0a => STATUS_A,
            0x0b => STATUS_B,
            0x0d => STATUS_D,
            0x15 => base_memory[0],
            0x16 => base_memory[1],
            0x17 | 0x30 => extended[0],
            0x18 | 0x31 => extended[1],
            0x34 => above_16m[0],
            0x35 => above_16m[1],
            _ => 0,
        }
    }

    fn clock(&self, index: u8) -> u8 {
        let now = (self.now)();
        let (days, seconds) = (now / 86_400, now % 86_400);
        let (year, month, day) = civil(days);
        let value = match index {
            0x00 => seconds % 60,
            0x02 => seconds / 60 % 60,
            0x04 => seconds / 3600,
            0x06 => (days + 4) % 7 + 1,
            0x07 => day,
            0x08 => month,
            0x09 => year % 100,
            _ => year / 100,
        };
        u8::try_from(((value / 10) << 4) | (value % 10)).unwrap_or(0)
    }
}

/// Year, month (from 1) and day of the month (from 1) of a day since 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is the last of a year; 146,097 days are 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day)
}

impl BusDevice for Cmos {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (1, [data]) = (offset, data) {
            *data = self.register(self.index());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if let (0, &[index]) = (offset, data) {
            self.set_index(index);
        }
        Effect::None
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Self { index: _, memory: _, now: _ } = self;
        Some(state::encode(&CmosState { index: self.index() }))
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        let CmosState { index } = state::decode(saved)?;
        self.set_index(index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cmos: &Cmos, index: u8) -> u8 {
        cmos.write(0, &[index | 0x80]);
        let mut data = [0xff];
        cmos.read(1, &mut data);
        data[0]
    }

    #[test]
    fn tells_the_time() {
        // 2028-02-29 23:59:58 UTC, a Tuesday.
        let cmos = Cmos { now: || 1_835_481_598, ..Cmos::new(None) };
        let now = [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|i| read(&cmos, i));
        assert_eq!(now, [0x20, 0x28, 0x02, 0x29, 0x03, 0x23, 0x59, 0x58]);
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(47_541), (2100, 3, 1));
        assert_eq!(read(&cmos, 0x0a) & 0x80, 0);
    }

    #[test]
    fn sizes_only_where_wanted() {
        assert_eq!([0x15, 0x17, 0x34].map(|i| read(&Cmos::new(None), i)), [0, 0, 0]);
        let cmos = Cmos::new(Some(256 << 20));
        let word = |i| u16::from_le_bytes([read(&cmos, i), read(&cmos, i + 1)]);
        assert_eq!([0x15, 0x17, 0x30, 0x34].map(word), [640, 63 << 10, 63 << 10, 240 << 4]);
    }

    #[test]
    fn state_comes_back() {
        let cmos = Cmos::new(None);
        cmos.write(0, &[0x0d]);
        let other = Cmos::new(None);
        other.restore(&cmos.save().unwrap()).unwrap();
        let mut data = [0];
        other.read(1, &mut data);
        assert_eq!(data, [STATUS_D]);
    }
}
