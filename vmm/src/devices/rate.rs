//! Rate limits: token buckets, and the timer that says when there is something in them again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::{Deserialize, Serialize};

use crate::config::{RateLimit, TokenBucket};

/// How full a bucket is. A request is let through by a bucket that has a token in it, and may take out more than
/// there are: what is owed comes first when it is refilled. So a request of any size passes some time, and the rate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Level {
    /// Tokens, times the nanoseconds in which the bucket is refilled: whole numbers lose nothing.
    tokens: i128,
    /// Tokens of the burst that are left.
    burst: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    spec: TokenBucket,
    level: Level,
}

impl Bucket {
    fn new(spec: TokenBucket) -> Self {
        let mut bucket = Self { spec, level: Level { tokens: 0, burst: spec.one_time_burst } };
        bucket.level.tokens = bucket.full();
        bucket
    }

    fn refill_ns(&self) -> i128 {
        i128::from(self.spec.refill_time) * 1_000_000
    }

    fn full(&self) -> i128 {
        i128::from(self.spec.size).saturating_mul(self.refill_ns())
    }

    fn refill(&mut self, elapsed: Duration) {
        let elapsed = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX);
        let gained = elapsed.saturating_mul(self.spec.size.into());
        self.level.tokens = self.level.tokens.saturating_add(gained).min(self.full());
    }

    /// How long until there is a token in it.
    fn wait(&self) -> Option<Duration> {
        let missing = self.refill_ns().saturating_sub(self.level.tokens);
        if self.level.burst > 0 || missing <= 0 {
            return None;
        }
        let ns = (missing - 1) / i128::from(self.spec.size) + 1;
        Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
    }

    fn charge(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.level.burst);
        self.level.burst -= from_burst;
        let rest = i128::from(tokens - from_burst).saturating_mul(self.refill_ns());
        self.level.tokens = self.level.tokens.saturating_sub(rest);
    }
}

/// How full the buckets of a limiter are: its saved state, which a device puts into its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLevels {
    bandwidth: Option<Level>,
    ops: Option<Level>,
}

/// A limit to what a device does in one direction.
#[derive(Debug)]
pub struct RateLimiter {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
    refilled: Instant,
    timer: OwnedFd,
}

impl RateLimiter {
    /// A limiter with full buckets; none if there is no limit.
    pub fn new(limit: &RateLimit) -> io::Result<Option<Self>> {
        let (bandwidth, ops) = (limit.bandwidth.map(Bucket::new), limit.ops.map(Bucket::new));
        if bandwidth.is_none() && ops.is_none() {
            return Ok(None);
        }
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Some(Self { bandwidth, ops, refilled: Instant::now(), timer }))
    }

    /// Whether one more operation may begin now. If not, the timer is set: its descriptor becomes readable when it
    /// is worth asking again.
    pub fn admits(&mut self) -> bool {
        let now = Instant::now();
        let Some(wait) = self.wait(now) else { return true };
        // Fails only for times and descriptors that are none.
        let _ = self.set_timer(wait);
        false
    }

    /// Takes an operation of so many bytes, which [`RateLimiter::admits`] has let through, out of the buckets.
    pub fn charge(&mut self, bytes: u64) {
        for (bucket, tokens) in [(&mut self.bandwidth, bytes), (&mut self.ops, 1)] {
            if let Some(bucket) = bucket {
                bucket.charge(tokens);
            }
        }
    }

    /// Makes the timer's descriptor unreadable again.
    pub fn acknowledge(&self) {
        // Nothing to read when it has not expired.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }

    /// How full the buckets are.
    #[must_use]
    pub fn save(&self) -> RateLevels {
        let level = |bucket: &Option<Bucket>| bucket.as_ref().map(|bucket| bucket.level);
        RateLevels { bandwidth: level(&self.bandwidth), ops: level(&self.ops) }
    }

    /// Takes back what [`RateLimiter::save`] gave, as far as there are such buckets still.
    pub fn restore(&mut self, levels: &RateLevels) {
        for (bucket, level) in [(&mut self.bandwidth, levels.bandwidth), (&mut self.ops, levels.ops)] {
            if let (Some(bucket), Some(level)) = (bucket, level) {
                let (most, burst) = (bucket.full(), bucket.spec.one_time_burst);
                bucket.level = Level { tokens: level.tokens.min(most), burst: level.burst.min(burst) };
            }
        }
    }

    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.refilled = now;
        let mut longest = None;
        for bucket in [&mut self.bandwidth, &mut self.ops].into_iter().flatten() {
            bucket.refill(elapsed);
            longest = longest.max(bucket.wait());
        }
        longest
    }

    fn set_timer(&self, wait: Duration) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let timer = Itimerspec { it_interval: zero, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }
}

impl AsRawFd for RateLimiter {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

impl AsFd for RateLimiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn limiter(bandwidth: Option<&str>, ops: Option<&str>) -> RateLimiter {
        let parse = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let limit = RateLimit { bandwidth: parse(bandwidth), ops: parse(ops) };
        RateLimiter::new(&limit).unwrap().unwrap()
    }

    #[test]
    fn no_limit_needs_no_limiter() {
        assert!(RateLimiter::new(&RateLimit::default()).unwrap().is_none());
    }

    #[test]
    fn bursts_come_once() {
        let mut limiter = limiter(Some("100/1s+50"), None);
        let start = limiter.refilled;
        assert_eq!(limiter.wait(start), None);
        limiter.charge(150);
        assert!(limiter.wait(start).is_some());
        limiter.wait(start + Duration::from_secs(9));
        limiter.charge(100);
        assert!(limiter.wait(start + Duration::from_secs(9)).is_some(), "full is 100");
    }

    #[test]
    fn debts_are_paid_first() {
        let mut limiter = limiter(Some("100/1s"), Some("1000/1s"));
        let start = limiter.refilled;
        limiter.charge(600);
        let wait = limiter.wait(start).unwrap();
        assert!((4999..5011).contains(&wait.as_millis()), "{wait:?}");
        assert!(limiter.wait(start + wait - Duration::from_millis(20)).is_some());
        assert_eq!(limiter.wait(start + wait), None);
    }

    #[test]
    fn the_timer_tells_when() {
        let mut limiter = limiter(None, Some("1/50ms"));
        assert!(limiter.admits());
        limiter.charge(0);
        assert!(!limiter.admits());
        poll(&mut [PollFd::new(&limiter, PollFlags::IN)], None).unwrap();
        limiter.acknowledge();
        assert!(limiter.admits());
        let again = poll(&mut [PollFd::new(&limiter, PollFlags::IN)], Some(&Timespec::default())).unwrap();
        assert_eq!(again, 0);
    }

    #[test]
    fn state_comes_back() {
        let mut first = limiter(Some("1M+5"), None);
        first.charge(3);
        let mut second = limiter(Some("1M+5"), Some("9"));
        second.restore(&first.save());
        assert_eq!(second.save().bandwidth, first.save().bandwidth);
        assert_eq!(second.save().ops, limiter(None, Some("9")).save().ops, "a new limit begins full");
    }

    proptest! {
        /// Over any run of requests, no more passes than rate, bucket and burst allow, and a largest request.
        #[test]
        fn the_rate_holds(
            size in 1u64..5000, refill_time in 1u64..3000, burst in 0u64..5000,
            requests in prop::collection::vec((0u64..2000, 0u64..400), 1..200),
        ) {
            let spec = TokenBucket { size, refill_time, one_time_burst: burst };
            let limit = RateLimit { bandwidth: Some(spec), ops: None };
            let mut limiter = RateLimiter::new(&limit).unwrap().unwrap();
            let start = limiter.refilled;
            let (mut now, mut passed) = (start, 0);
            for (bytes, pause) in requests {
                now += Duration::from_millis(pause);
                if let Some(wait) = limiter.wait(now) {
                    now += wait;
                    prop_assert_eq!(limiter.wait(now), None, "after {:?}", wait);
                }
                limiter.charge(bytes);
                passed += bytes;
                let elapsed = now.duration_since(start).as_millis() as u64 + 1;
                prop_assert!(passed <= burst + size + elapsed * size / refill_time + 1 + 2000);
            }
        }
    }
}
