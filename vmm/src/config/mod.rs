//! What a VM is to be: flags and files become one validated, immutable [`VmSpec`].
//!
//! ```text
//! flags ───────────────▶ RawConfig ─┐
//!                                   ├─ or ─▶ RawConfig ─ into_spec ─▶ VmSpec ─ to_toml ─▶ a file again
//! TOML, JSON, Firecracker ▶ RawConfig ┘
//! ```
//!
//! A single value is checked where it is read, so that the message can say where it stands; [`RawConfig`] thus
//! holds valid values only, and [`RawConfig::into_spec`] is left with defaults and what concerns several.

mod disk;
mod error;
mod file_ref;
mod firecracker;
mod firmware;
mod keys;
mod load;
mod memory;
mod net;
mod one_line;
mod pairs;
mod pmem;
mod port;
mod rate;
mod raw;
mod resolve;
mod rng;
mod schema;
mod spec;
#[cfg(test)]
mod tests;
mod value;
mod vsock;

pub use disk::{BlockSize, CacheMode, DiskConfig, DiskFormat, IoEngine, Overlay, Serial};
pub use error::{Error, Place, ValueError};
pub use file_ref::FileRef;
pub use firmware::{FwCfgFile, ModuleConfig};
pub(crate) use keys::fields;
pub use memory::{MemorySize, RawMemory};
pub use net::{MacAddr, Mtu, NetConfig, TapRef};
pub(crate) use one_line::OneLine;
pub use pmem::PmemConfig;
pub use port::PortConfig;
pub use rate::{RateLimit, TokenBucket};
pub use raw::RawConfig;
pub(crate) use raw::file;
pub use resolve::DEFAULT_CMDLINE;
pub use rng::RngConfig;
pub use schema::schema;
pub use spec::*;
pub use value::{Cmdline, Cpus, Nanoseconds};
pub use vsock::{Cid, VsockConfig};
