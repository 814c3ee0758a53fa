//! The guard against changes that make starts slower: scenarios are run in the nested lab, where time is instructions
//! and repeats, and what each phase takes is held against a budget. See `docs/measuring.md`.

pub mod budget;
pub mod environment;
pub mod functions;
pub mod measure;
pub mod page;
pub mod phase;
pub mod scenario;
pub mod verdict;
mod waterfall;
pub mod yardstick;
