//! Step 2: PCI, where there is a bus.

pub mod chipset;
pub mod config;
