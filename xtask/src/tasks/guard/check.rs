//! Measured figures beside budgets, in words.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use anyhow::Result;
use xtask::ctx::Ctx;
use xtask::guard::budget::Budgets;
use xtask::guard::environment::MadeWith;
use xtask::guard::functions::{Baseline, Grown};
use xtask::guard::measure::Measured;
use xtask::guard::phase::{Phase, Whose};
use xtask::guard::scenario::{Guest, Scenario};
use xtask::guard::verdict::{self, Finding};
use xtask::guard::yardstick;

use crate::tasks::build;

/// How many of the functions that grew are shown.
const SHOWN: usize = 5;

/// Says where the two runs differ; true if nowhere.
pub fn repeats(measured: &Measured) -> bool {
    for difference in &measured.differences {
        println!("DOES NOT REPEAT  {difference}");
    }
    if !measured.differences.is_empty() {
        println!(
            "guard: two runs of the same bytes differ; find out why (docs/measuring.md has the usual causes)"
        );
    }
    measured.differences.is_empty()
}

/// Compares all that can be compared, says what cannot, and returns whether every budget is kept.
pub fn against(ctx: &Ctx, budgets: &Budgets, measured: &Measured, scenarios: &[Scenario]) -> Result<bool> {
    let here = MadeWith::here(ctx)?;
    let there = &budgets.made_with;
    let same_lab = here.qemu == there.qemu && here.debian == there.debian;
    let same_tools = here.qemu == there.qemu && here.rustc == there.rustc;
    if !(same_lab && same_tools) {
        println!("guard: the budgets were made with others than are here:\n{}", here.differences(there));
        let left = [(same_tools, "jiffy and init"), (same_lab, "host"), (same_lab, "guests and their exits")];
        for (is_judged, what) in left {
            println!(
                "guard: {what}: {}",
                if is_judged { "compared as always" } else { "compared by yardstick" }
            );
        }
    }
    let judged = |whose: Whose| if whose.is_ours() { same_tools } else { same_lab };
    let functions = Baseline::read(ctx)?;
    let mut unknown = 0;
    let mut found = Vec::new();
    for scenario in scenarios {
        let name = scenario.name();
        let Some(budget) = budgets.scenario.get(&name) else {
            unknown += 1;
            println!("NO BUDGET  {name}");
            continue;
        };
        found.extend(verdict::compare(
            scenario,
            &budgets.allowance,
            budget,
            &measured.scenarios[&name],
            judged,
        ));
    }
    print!("{}", text(&found, |finding| functions.grown(finding, measured)));
    let slower = found.iter().filter(|finding| finding.is_slower()).count();
    let faster = found.len() - slower;
    let ratios = if same_lab && same_tools { true } else { by_yardstick(ctx, budgets, measured)? };
    println!(
        "guard: {} scenarios, {unknown} without budgets, {slower} budgets exceeded, {faster} undercut{}",
        scenarios.len(),
        if ratios { "" } else { ", and a ratio that is worse" }
    );
    if faster > 0 && slower + unknown == 0 {
        println!("guard: make the better figures the budgets: cargo xtask guard --bless");
    }
    if slower + unknown > 0 {
        println!("guard: if that is as it has to be, make it the budget: cargo xtask guard --bless");
    }
    Ok(slower + unknown == 0 && ratios)
}

/// Findings in words: what is the same in several scenarios together, and in the one that it changed most, why.
fn text(found: &[Finding], grown: impl Fn(&Finding) -> Vec<Grown>) -> String {
    let mut groups: BTreeMap<(bool, String), Vec<&Finding>> = BTreeMap::new();
    for finding in found {
        groups.entry((!finding.is_slower(), finding.what())).or_default().push(finding);
    }
    let mut lines = Vec::new();
    for ((is_faster, what), mut group) in groups {
        group.sort_by_key(|finding| Reverse(finding.before.abs_diff(finding.after)));
        lines.push(format!("{}  {what}", if is_faster { "faster" } else { "SLOWER" }));
        lines.extend(
            group.iter().map(|finding| format!("        {:<28} {}", finding.scenario, finding.change())),
        );
        if !is_faster {
            lines.push(format!("      in {}:", group[0].scenario));
            lines.extend(blame(group[0], &grown(group[0])));
        }
    }
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// The phases and functions that grew, or how to find them.
fn blame(finding: &Finding, grown: &[Grown]) -> Vec<String> {
    let mut lines = Vec::new();
    if finding.phases.len() > 1 {
        let changed = finding.phases.iter().filter(|(_, before, after)| before != after);
        lines.extend(changed.map(|(phase, before, after)| {
            format!("        phase {phase}: {}", verdict::change(*before, *after))
        }));
    }
    let shown = grown.iter().take(SHOWN);
    lines.extend(shown.map(|Grown { function, before, after }| {
        format!("        {:+} {function}: {before} before, {after} now", after - before)
    }));
    if grown.is_empty() {
        let hint = match finding.whose.as_slice() {
            [whose] if whose.is_ours() => "no function is known to have grown",
            _ => "which functions: cargo xtask profile --json, here and before the change, then --diff",
        };
        lines.push(format!("        {hint}"));
    }
    lines
}

/// Where the tools are others: jiffy's start beside `floor`'s, and a boot of Debian's kernel beside QEMU's microvm, each
/// pair measured here.
fn by_yardstick(ctx: &Ctx, budgets: &Budgets, measured: &Measured) -> Result<bool> {
    let (floor, _) = build::floor(ctx)?;
    let now = yardstick::measure(ctx, &floor)?;
    let then = budgets.yardstick;
    let percent = budgets.allowance.ratio.percent;
    let mut good = true;
    let pairs = [
        (Guest::Mark, 128, "start beside floor", then.floor, now.floor),
        (Guest::Debian, 512, "boot beside QEMU's microvm", then.microvm, now.microvm),
    ];
    for (guest, memory_mib, what, then, now) in pairs {
        let all = Scenario::all();
        let of = |scenario: &&Scenario| (scenario.guest, scenario.memory_mib) == (guest, memory_mib);
        for name in all.iter().filter(of).map(Scenario::name) {
            let (Some(before), Some(after)) = (budgets.scenario.get(&name), measured.scenarios.get(&name))
            else {
                continue;
            };
            let before = before.iter().filter(|(phase, _)| !verdict::is_after(phase));
            let before = before.flat_map(|(_, costs)| costs.values()).sum();
            let after = after.iter().filter(|phase| !verdict::is_after(&phase.name)).map(Phase::total).sum();
            let (is_good, text) =
                yardstick::ratio(&format!("{name}: {what}"), (before, then), (after, now), percent)?;
            println!("{}  {text}", if is_good { "ok    " } else { "SLOWER" });
            good &= is_good;
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_phase_and_functions() {
        let finding = |scenario: &str, before, after| Finding {
            scenario: scenario.to_owned(),
            phases: vec![("config", before, after)],
            whose: vec![Whose::Jiffy],
            before,
            after,
        };
        let found = [finding("a", 1000, 1010), finding("b", 1000, 1100), finding("c", 1000, 900)];
        let grown =
            |_: &Finding| vec![Grown { function: "vmm::cli::parse".to_owned(), before: 10, after: 110 }];
        assert_eq!(
            text(&found, grown),
            "SLOWER  config (jiffy)\n        b                            1000 before, 1100 now (+100, +10.00 %)\n        \
             a                            1000 before, 1010 now (+10, +1.00 %)\n      in b:\n        \
             +100 vmm::cli::parse: 10 before, 110 now\nfaster  config (jiffy)\n        \
             c                            1000 before, 900 now (-100, -10.00 %)\n"
        );
        let mut joint = finding("a", 2000, 2100);
        joint.phases = vec![("exec", 1000, 1000), ("load", 1000, 1100)];
        joint.whose = vec![Whose::Host];
        let said = text(&[joint], |_| Vec::new());
        assert!(
            said.starts_with("SLOWER  exec to load (host)\n") && said.contains("profile --json"),
            "{said}"
        );
        assert!(said.contains("phase load: 1000 before, 1100 now") && !said.contains("phase exec"), "{said}");
    }
}
