//! Rate limits as a user writes them: `SIZE[/TIME][+BURST]`, such as `10M`, `1M/100ms` or `10M+100M`.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use super::ValueError;
use super::value::text_or_number;

/// A token bucket: a token is a byte or an operation. It is full at the start, and what is taken from it comes back
/// steadily.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens that it holds when it is full; at least 1.
    pub size: u64,
    /// Milliseconds in which an empty one becomes full; at least 1.
    pub refill_time: u64,
    /// Tokens on top, once: they are spent first, and do not come back.
    pub one_time_burst: u64,
}

/// What one direction of a device may do; what is absent has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Requests or packets.
    pub ops: Option<TokenBucket>,
}

/// Suffixes of numbers, and the power of two of each.
const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
/// Suffixes of times, and the milliseconds of each; the longer first.
const TIMES: [(&str, u64); 2] = [("ms", 1), ("s", 1000)];

impl TokenBucket {
    /// A bucket of `size` tokens that is refilled in `refill_time` milliseconds.
    pub fn new(size: u64, refill_time: u64, one_time_burst: u64) -> Result<Self, ValueError> {
        let bucket = Self { size, refill_time, one_time_burst };
        if size == 0 || refill_time == 0 {
            return Err(ValueError::EmptyBucket(bucket.to_string()));
        }
        Ok(bucket)
    }
}

fn number(text: &str) -> Option<u64> {
    let (digits, shift) =
        UNITS.iter().find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift))).unwrap_or((text, 0));
    let digits = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn milliseconds(text: &str) -> Option<u64> {
    let (digits, factor) =
        TIMES.iter().find_map(|&(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number(digits)?.checked_mul(factor)
}

impl FromStr for TokenBucket {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (rate, burst) = text.split_once('+').map_or((text, "0"), |(rate, burst)| (rate, burst));
        let (size, time) = rate.split_once('/').unwrap_or((rate, "1s"));
        let parts = (number(size), milliseconds(time), number(burst));
        let (Some(size), Some(time), Some(burst)) = parts else {
            return Err(ValueError::Rate(text.to_owned()));
        };
        Self::new(size, time, burst)
    }
}

impl fmt::Display for TokenBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}ms+{}", self.size, self.refill_time, self.one_time_burst)
    }
}

impl Serialize for TokenBucket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenBucket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_number(deserializer, "a rate such as \"10M\" or \"1M/100ms+10M\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_can_be_written() {
        for (text, (size, refill_time, one_time_burst)) in [
            ("10M", (10 << 20, 1000, 0)),
            ("1500", (1500, 1000, 0)),
            ("1M/100ms", (1 << 20, 100, 0)),
            ("1G/2s+4G", (1 << 30, 2000, 4 << 30)),
        ] {
            assert_eq!(text.parse(), Ok(TokenBucket { size, refill_time, one_time_burst }), "{text}");
        }
        for text in ["", "M", "10M/", "10M/5", "/1s", "1+", "+1", "-1", "1 M", "1/1ms/1ms", "99999999T"] {
            assert_eq!(text.parse::<TokenBucket>(), Err(ValueError::Rate(text.to_owned())), "{text}");
        }
        for text in ["0", "0M+5", "10M/0ms"] {
            assert!(matches!(text.parse::<TokenBucket>(), Err(ValueError::EmptyBucket(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read(size in 1u64.., refill_time in 1u64..1 << 40, one_time_burst: u64) {
            let bucket = TokenBucket { size, refill_time, one_time_burst };
            prop_assert_eq!(bucket.to_string().parse(), Ok(bucket));
        }
    }
}
