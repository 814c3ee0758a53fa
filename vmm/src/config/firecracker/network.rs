//! Network interfaces and rate limiters in Firecracker's form (`src/vmm/src/vmm_config/net.rs` and `mod.rs`).

use serde::Deserialize;

use crate::config::{MacAddr, Mtu, NetConfig, RateLimit, TapRef, TokenBucket, ValueError};

/// One of `network-interfaces`. Its `iface_id` means nothing here: the order counts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkInterface {
    #[serde(rename = "iface_id")]
    _id: String,
    host_dev_name: TapRef,
    guest_mac: Option<MacAddr>,
    mtu: Option<Mtu>,
    rx_rate_limiter: Option<RateLimiter>,
    tx_rate_limiter: Option<RateLimiter>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimiter {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

/// Tokens and milliseconds. One whose size or time is zero limits nothing there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    size: u64,
    one_time_burst: Option<u64>,
    refill_time: u64,
}

impl Bucket {
    fn into_bucket(self) -> Result<Option<TokenBucket>, ValueError> {
        let Self { size, one_time_burst, refill_time } = self;
        if size == 0 || refill_time == 0 {
            return Ok(None);
        }
        TokenBucket::new(size, refill_time, one_time_burst.unwrap_or(0)).map(Some)
    }
}

impl RateLimiter {
    pub(super) fn into_limit(self) -> Result<RateLimit, ValueError> {
        let bucket = |bucket: Option<Bucket>| bucket.map_or(Ok(None), Bucket::into_bucket);
        Ok(RateLimit { bandwidth: bucket(self.bandwidth)?, ops: bucket(self.ops)? })
    }
}

impl NetworkInterface {
    pub(super) fn into_config(self) -> Result<NetConfig, ValueError> {
        let Self { _id, host_dev_name, guest_mac: mac, mtu, rx_rate_limiter, tx_rate_limiter } = self;
        let [receive, transmit] =
            [rx_rate_limiter, tx_rate_limiter].map(|limiter| limiter.unwrap_or_default().into_limit());
        let (receive, transmit) = (receive?, transmit?);
        Ok(NetConfig {
            tap: Some(host_dev_name),
            mac,
            mtu,
            rx_bandwidth: receive.bandwidth,
            rx_ops: receive.ops,
            tx_bandwidth: transmit.bandwidth,
            tx_ops: transmit.ops,
            ..NetConfig::default()
        })
    }
}
