//! Guest memory: regions, their backing, and the one path by which the VMM writes to it.

pub mod layout;
