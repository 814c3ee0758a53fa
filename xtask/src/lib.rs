//! What the tasks, the suites and the benches share: where things are, what is in the cache, how guests are run.

pub mod apt;
pub mod built;
pub mod cache;
pub mod cpio;
pub mod ctx;
pub mod debs;
pub mod drivers;
pub mod foreign;
pub mod guard;
pub mod guests;
pub mod images;
pub mod initramfs;
pub mod kernel;
pub mod lab;
pub mod payload;
pub mod probe;
pub mod profile;
pub mod skip;
pub mod timeline;
pub mod tuned;
pub mod unpack;
