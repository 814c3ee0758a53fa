//! What a VM is to be: raw input becomes one validated, immutable [`VmSpec`].

mod spec;

pub use spec::*;
