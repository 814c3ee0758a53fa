//! Harness for suites that boot real guests.
//!
//! A suite is a `main` that hands its tests to [`suite::run`]. Most of them are [`Guest`]s: what `jiffy` is asked to
//! run, and what must come of it. All guests of a suite share one start of their lab, and each is reported as a test.
//! A guest passes only by an explicit message or an exact outcome, never by a deadline that ran out.

mod guest;
pub mod payloads;
pub mod pty;
pub mod suite;
pub mod took;

pub use guest::{Guest, PORT};
