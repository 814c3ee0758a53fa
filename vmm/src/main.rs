//! The `jiffy` command.
fn main() {}
