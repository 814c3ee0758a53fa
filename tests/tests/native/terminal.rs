//! `jiffy` at a terminal: whatever happens, the terminal's settings are in the end what they were.

use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tests::pty::{Program, Terminal};
use tests::suite;
use xtask::ctx::Ctx;
use xtask::lab::Way;
use xtask::{built, guests, skip};

/// A test: its name, the guest, what the guest says first, what is done then, and the exit status.
type Case = (&'static str, &'static str, &'static str, fn(&mut Terminal, &Program) -> Result<()>, i32);

const CASES: [Case; 9] = [
    ("exit", "echo", "echo: ready", |terminal, _| terminal.write(b"\x04"), 0),
    ("guest_panics", "panic", "panic: now", |_, _| Ok(()), 121),
    ("triple_fault", "triple", "triple: now", |_, _| Ok(()), 122),
    ("sigterm", "spin", "spin: for ever", |_, program| program.signal(Signal::TERM), 143),
    ("sighup", "spin", "spin: for ever", |_, program| program.signal(Signal::HUP), 129),
    ("sigint", "spin", "spin: for ever", |_, program| program.signal(Signal::INT), 130),
    ("ctrl_a_x", "spin", "spin: for ever", |terminal, _| terminal.write(b"\x01x"), 130),
    ("ctrl_a_h", "echo", "echo: ready", ask_for_help, 0),
    ("ctrl_c_is_the_guests", "echo", "echo: ready", interrupt_the_guest, 0),
];

pub(crate) fn trials(ctx: &Ctx, way: Way) -> Result<Vec<Trial>> {
    let jiffy = built::JIFFY.path(ctx)?;
    let mut trials = Vec::new();
    for case in CASES {
        let (jiffy, guest) = (jiffy.clone(), guests::build(ctx, case.1)?);
        let name = format!("terminal::{}", case.0);
        trials.push(suite::test(&name.clone(), move || match way {
            Way::Native => run(case, &jiffy, &guest),
            Way::Nested(_) => {
                skip::note(&name, "there is no /dev/kvm here, and the lab has no terminal");
                Ok(())
            }
        }));
    }
    Ok(trials)
}

fn run((_, _, ready, act, expected): Case, jiffy: &Path, guest: &Path) -> Result<()> {
    let mut terminal = Terminal::new()?;
    let before = terminal.settings()?;
    // As from a shell: in the foreground of a session whose terminal this is. The process stays the same.
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(jiffy).args(["run", "--memory", "4M", "--kernel"]).arg(guest);
    let mut program = terminal.spawn(&mut command)?;
    terminal.wait_for(ready)?;
    act(&mut terminal, &program)?;
    let status: ExitStatus = program.wait()?;
    let after = terminal.settings()?;
    ensure!(status.code() == Some(expected), "it ended with {status}, not {expected}");
    ensure!(after == before, "the terminal was left with other settings:\n{after}\nbefore:\n{before}");
    Ok(())
}

fn ask_for_help(terminal: &mut Terminal, _: &Program) -> Result<()> {
    raw(terminal)?;
    terminal.write(b"\x01h")?;
    terminal.wait_for("end the VM")?;
    terminal.write(b"\x04")
}

fn interrupt_the_guest(terminal: &mut Terminal, _: &Program) -> Result<()> {
    raw(terminal)?;
    terminal.write(b"\x03.")?;
    terminal.wait_for("\x03.")?;
    terminal.write(b"\x04")
}

/// The terminal is raw while a guest has it: without this, the tests that compare settings could not fail.
fn raw(terminal: &Terminal) -> Result<()> {
    let fresh = Terminal::new()?.settings()?;
    ensure!(terminal.settings()? != fresh, "the terminal is not raw while the guest has it");
    Ok(())
}
