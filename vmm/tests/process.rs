//! The program as whoever starts it sees it, where no guest is needed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::process::{Command, Output};

fn jiffy(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jiffy"));
    command.args(arguments);
    command
}

/// Exit code and standard error.
fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn standard_error_that_takes_nothing_changes_no_exit_code() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = jiffy(&["run", "--kernel", "/nowhere"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(125), "{status}");
}

#[test]
fn a_number_of_our_own_files_is_no_descriptor_of_the_user() {
    // No descriptor but the standard streams is open in a process that std starts, so the kernel would be number 3.
    let kernel = env!("CARGO_BIN_EXE_jiffy");
    for flag in ["--initrd", "--result"] {
        let output = jiffy(&["run", "--kernel", kernel, flag, "fd:3"]).output().unwrap();
        let expected = format!("jiffy: {flag} fd:3: Bad file descriptor (os error 9)\n");
        assert_eq!(said(&output), (Some(125), expected));
    }
}
