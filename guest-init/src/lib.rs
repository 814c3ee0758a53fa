//! PID 1.
#![no_std]
