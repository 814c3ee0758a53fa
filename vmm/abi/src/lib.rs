//! The machine contract: what the VMM promises a guest, and what firmware and init count on.
//!
//! Everything here is a constant or a plain type; nothing allocates, and nothing is unsafe.
#![no_std]
#![forbid(unsafe_code)]

pub mod announce;
pub mod bundle;
pub mod e820;
pub mod firmware;
pub mod fw_cfg;
pub mod init_config;
pub mod layout;
pub mod modules;
#[cfg(feature = "planted")]
pub mod planted;
pub mod ports;
pub mod pvh;
pub mod timeline;
pub mod unikernel;
