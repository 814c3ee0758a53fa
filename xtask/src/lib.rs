//! What the tasks, the suites and the benches share: where things are, how guests are run.

pub mod ctx;
