//! A panic of ours, on a thread that is not the terminal's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use vmm::devices::console::{Terminal, restore_on_panic};

/// Set in the process that is to panic.
const CHILD: &str = "JIFFY_TEST_PANICS";
const CODE: u8 = 125;

/// What the child does; in any other process, nothing.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    restore_on_panic(CODE);
    let terminal = Terminal::raw().unwrap().expect("standard input is a terminal of ours");
    let local = tcgetattr(rustix::stdio::stdin()).unwrap().local_modes;
    eprintln!("canonical: {}", local.contains(LocalModes::ICANON));
    let _ = std::thread::spawn(|| panic!("on purpose")).join();
    drop(terminal);
    unreachable!("the hook ends the process");
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let name = ptsname(&near, Vec::new()).unwrap();
    let far = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let modes = || {
        let t = tcgetattr(&far).unwrap();
        (t.input_modes, t.output_modes, t.control_modes, t.local_modes)
    };
    let before = modes();
    let output = Command::new("setsid")
        .arg("--ctty")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .stdin(far.try_clone().unwrap())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(CODE.into()), "{said}");
    assert!(said.contains("canonical: false"), "it was not in raw mode: {said}");
    assert!(
        said.contains("jiffy: internal error, please report it: ") && said.contains("on purpose"),
        "{said}"
    );
    assert_eq!(modes(), before);
}
