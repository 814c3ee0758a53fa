//! The configuration of init.
