//! Rate limiters in Firecracker's form (1.x, `RateLimiterConfig` and `TokenBucketConfig`).

use serde::Deserialize;

use crate::config::{RateLimit, TokenBucket};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimiter {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

/// Tokens and milliseconds. One whose size or time is zero limits nothing, as with Firecracker.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    size: u64,
    one_time_burst: Option<u64>,
    refill_time: u64,
}

impl From<RateLimiter> for RateLimit {
    fn from(RateLimiter { bandwidth, ops }: RateLimiter) -> Self {
        let bucket = |bucket: Option<Bucket>| {
            let Bucket { size, one_time_burst, refill_time } = bucket?;
            // It refuses buckets that hold nothing or are never full, and nothing else.
            TokenBucket::new(size, refill_time, one_time_burst.unwrap_or(0)).ok()
        };
        Self { bandwidth: bucket(bandwidth), ops: bucket(ops) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_nothing_limit_nothing() {
        let read = |text: &str| RateLimit::from(serde_json::from_str::<RateLimiter>(text).unwrap());
        let limit = read(
            r#"{ "bandwidth": { "size": 1000, "one_time_burst": 5, "refill_time": 100 },
                 "ops": { "size": 2, "one_time_burst": null, "refill_time": 1 } }"#,
        );
        assert_eq!(limit.bandwidth, Some("1000/100ms+5".parse().unwrap()));
        assert_eq!(limit.ops, Some("2/1ms".parse().unwrap()));
        for nothing in [
            "{}",
            r#"{ "bandwidth": null, "ops": null }"#,
            r#"{ "bandwidth": { "size": 0, "refill_time": 100 }, "ops": { "size": 1, "refill_time": 0 } }"#,
        ] {
            assert_eq!(read(nothing), RateLimit::default(), "{nothing}");
        }
    }
}
