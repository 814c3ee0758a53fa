//! Profiles as tables.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use xtask::profile::{self, Code, Exit, Profile};

/// What is shown.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Tables {
    /// How many functions are shown of each code in each phase
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Show what made the guest exit, and what that took
    #[arg(long)]
    pub exits: bool,
    /// Show the guest kernel's initcalls, each with all that it calls
    #[arg(long)]
    initcalls: bool,
}

/// Everything that was asked for.
pub fn text(profile: &Profile, tables: &Tables) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = summary(&mut text, profile);
    let _ = phases(&mut text, profile, tables.top);
    if tables.exits {
        let _ = exits(&mut text, profile, tables.top);
    }
    if tables.initcalls {
        let _ = initcalls(&mut text, profile, tables.top);
    }
    text
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 }
}

fn phases(to: &mut String, profile: &Profile, top: usize) -> std::fmt::Result {
    for phase in &profile.phases {
        let total = phase.total();
        writeln!(to, "\n{total:>12}  100.0 %  to {}\n", phase.name)?;
        for (code, functions) in &phase.costs {
            let sum: u64 = functions.values().sum();
            writeln!(to, "{sum:>12}  {:5.1} %  {}", share(sum, total), code.name())?;
            let mut order: Vec<_> = functions.iter().collect();
            order.sort_by_key(|(name, count)| (Reverse(**count), *name));
            for (name, count) in order.iter().take(top) {
                writeln!(to, "{count:>12}  {:5.1} %      {name}", share(**count, total))?;
            }
            if order.len() > top {
                let rest: u64 = order[top..].iter().map(|(_, count)| **count).sum();
                writeln!(to, "{rest:>12}  {:5.1} %      {} others", share(rest, total), order.len() - top)?;
            }
        }
    }
    Ok(())
}

/// A line for each phase: what was executed of each code, what of the lab's kernel was for the guest's exits, and how
/// much longer than that it took.
fn summary(to: &mut String, profile: &Profile) -> std::fmt::Result {
    let codes: BTreeSet<Code> = profile.phases.iter().flat_map(|phase| phase.costs.keys().copied()).collect();
    write!(to, "Instructions, up to\n{:26}{:>13}", "", "all")?;
    for code in &codes {
        write!(to, "{:>15}", code.name())?;
    }
    writeln!(to, "{:>15}{:>14}", "of it in exits", "waited, ns")?;
    for phase in &profile.phases {
        write!(to, "{:26}{:>13}", phase.name, phase.total())?;
        for code in &codes {
            let sum: u64 = phase.costs.get(code).into_iter().flat_map(BTreeMap::values).sum();
            write!(to, "{sum:>15}")?;
        }
        let exits = profile.exits.iter().filter(|exit| exit.phase == phase.name);
        let waited = phase.took_ns.map_or(0, |took| took.saturating_sub(phase.total()));
        writeln!(to, "{:>15}{waited:>14}", exits.map(|exit| exit.kernel).sum::<u64>())?;
    }
    Ok(())
}

fn exits(to: &mut String, profile: &Profile, top: usize) -> std::fmt::Result {
    writeln!(
        to,
        "Exits by phase and kind: how many, and instructions in the lab's kernel and programs for them\n"
    )?;
    let mut kinds: BTreeMap<(usize, &str), Vec<&Exit>> = BTreeMap::new();
    for exit in &profile.exits {
        let phase = profile.phases.iter().position(|phase| phase.name == exit.phase).unwrap_or_default();
        kinds.entry((phase, &exit.kind)).or_default().push(exit);
    }
    writeln!(to, "{:>8} {:>12} {:>12}", "exits", "kernel", "programs")?;
    let mut last = None;
    for ((phase, kind), mut exits) in kinds {
        if last.replace(phase) != Some(phase) {
            writeln!(to, "\nto {}", profile.phases[phase].name)?;
        }
        let sum = |of: fn(&Exit) -> u64| exits.iter().map(|exit| of(exit)).sum::<u64>();
        let (count, kernel, user) = (sum(|e| e.count), sum(|e| e.kernel), sum(|e| e.user));
        writeln!(to, "{count:>8} {kernel:>12} {user:>12}  {kind}")?;
        exits.sort_by_key(|exit| Reverse((exit.kernel + exit.user, exit.count)));
        for exit in exits.iter().take(top) {
            writeln!(to, "{:>8} {:>12} {:>12}      {}", exit.count, exit.kernel, exit.user, exit.function)?;
        }
    }
    Ok(())
}

fn initcalls(to: &mut String, profile: &Profile, top: usize) -> std::fmt::Result {
    let sum: u64 = profile.initcalls.iter().map(|call| call.guest + call.lab).sum();
    writeln!(to, "\n{} initcalls, each with all that it calls: {sum} instructions", profile.initcalls.len())?;
    writeln!(to, "{:>12} {:>12}", "guest", "lab")?;
    let mut order: Vec<_> = profile.initcalls.iter().collect();
    order.sort_by_key(|call| Reverse(call.guest + call.lab));
    for call in order.iter().take(top) {
        writeln!(to, "{:>12} {:>12}  {}", call.guest, call.lab, call.name)?;
    }
    Ok(())
}

/// What changed from one profile to another.
pub fn diff(before: &Profile, after: &Profile, tables: &Tables) -> String {
    let mut text = String::new();
    for code in [
        Code::Vmm,
        Code::LabKernel,
        Code::LabProgram,
        Code::Firmware,
        Code::GuestKernel,
        Code::Init,
        Code::GuestOther,
    ] {
        let changed = profile::grown(&before.functions(&[code]), &after.functions(&[code]));
        let sum: i64 = changed.iter().map(profile::Grown::by).sum();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{sum:>+12}  {}, {} functions", code.name(), changed.len());
        let mut order: Vec<_> = changed.iter().collect();
        order.sort_by_key(|grown| Reverse(grown.by().unsigned_abs()));
        for grown in order.iter().take(tables.top) {
            let (by, before, after) = (grown.by(), grown.before, grown.after);
            let _ =
                writeln!(text, "{by:>+12}  {before:>12} {after:>12}  {}: {}", grown.phase, grown.function);
        }
    }
    text
}
