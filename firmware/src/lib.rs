//! The ROM, as a library that also builds on the host.
#![no_std]
