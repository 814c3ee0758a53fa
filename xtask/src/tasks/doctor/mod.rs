//! `doctor`: what this host offers, and what that means for the user.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::probe::Level;

mod host;
mod kvm;
mod syscalls;

/// Say what this host offers, and mend what it lacks with which command
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One thing that a host may have.
#[derive(Debug, Serialize)]
struct Item {
    name: &'static str,
    /// Whether it is there and may be used.
    ok: bool,
    /// What was found.
    found: String,
    /// What that means for the user.
    means: &'static str,
    /// The command that mends a lack.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// What was found, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    level: Level,
    items: Vec<Item>,
    /// Whether `cargo xtask run` will work, and how.
    works: bool,
    conclusion: String,
}

/// Looks at the host and prints the report; fails when no guest can run here.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    let kvm = kvm::look(ctx)?;
    let qemu = host::qemu();
    let (works, conclusion) = conclude(kvm.level, qemu.ok, host::can_install());
    let mut items = vec![kvm.item, qemu];
    items.extend(host::items());
    let report = Report { level: kvm.level, items, works, conclusion };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where `cargo xtask run` will run guests.
fn conclude(level: Level, lab: bool, can_install: bool) -> (bool, String) {
    let nested =
        "use the nested lab: a Linux with KVM of its own, under QEMU's emulation; slower, but all works";
    match (level, lab, can_install) {
        (Level::Hardware, ..) => (true, "`cargo xtask run` will run guests on this host's KVM.".into()),
        (_, true, _) => (true, format!("`cargo xtask run` will {nested}.")),
        (_, false, true) => (true, format!("`cargo xtask run` will install QEMU, then {nested}.")),
        (_, false, false) => (
            false,
            format!(
                "`cargo xtask run` cannot run guests here. Mend KVM as said above, or: {}",
                host::GET_QEMU
            ),
        ),
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for item in &report.items {
        let sign = if item.ok { "ok" } else { "--" };
        text += &format!("{sign} {:<12} {}\n   {:<12} {}\n", item.name, item.found, "", item.means);
        if let Some(mend) = &item.mend {
            text += &format!("   {:<12} to mend: {mend}\n", "");
        }
    }
    format!("{text}\n{}\n", report.conclusion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_with_neither_kvm_nor_qemu_cannot_run_guests() {
        for level in [Level::Hardware, Level::Software, Level::None] {
            for (lab, install) in [(false, false), (false, true), (true, false), (true, true)] {
                let (works, text) = conclude(level, lab, install);
                assert_eq!(works, level == Level::Hardware || lab || install, "{text}");
                assert_eq!(text.contains("nested lab"), works && level != Level::Hardware, "{text}");
            }
        }
    }

    #[test]
    fn a_lack_shows_what_mends_it() {
        let item = |ok, mend| Item { name: "tap", ok, found: "absent".into(), means: "no network", mend };
        let items = vec![item(true, None), item(false, Some("modprobe tun".into()))];
        let report = Report { level: Level::None, items, works: false, conclusion: "The end.".into() };
        let text = text(&report);
        assert!(text.starts_with("ok tap"), "{text}");
        assert!(text.contains("\n-- tap") && text.contains("to mend: modprobe tun\n"), "{text}");
        assert!(text.ends_with("\nThe end.\n"), "{text}");
    }
}
