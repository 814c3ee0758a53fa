//! Builds, runs, tests and measures Jiffy.
fn main() {}
