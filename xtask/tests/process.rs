//! The program as whoever starts it sees it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::process::Command;

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command.args(["kernel", "config"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141), "as a shell says of SIGPIPE");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
