//! Network interfaces in Firecracker's form (1.x, `NetworkInterfaceConfig`).

use serde::Deserialize;

use super::rate::RateLimiter;
use crate::config::{MacAddr, Mtu, NetConfig, RateLimit, TapRef};

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

impl NetworkInterface {
    pub(super) fn into_config(self) -> NetConfig {
        let Self { _id, host_dev_name, guest_mac: mac, mtu, rx_rate_limiter, tx_rate_limiter } = self;
        let [receive, transmit] =
            [rx_rate_limiter, tx_rate_limiter].map(|limiter| RateLimit::from(limiter.unwrap_or_default()));
        NetConfig {
            tap: Some(host_dev_name),
            mac,
            mtu,
            rx_bandwidth: receive.bandwidth,
            rx_ops: receive.ops,
            tx_bandwidth: transmit.bandwidth,
            tx_ops: transmit.ops,
            ..NetConfig::default()
        }
    }
}
