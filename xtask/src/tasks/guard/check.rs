//! Measured figures beside budgets, in words.

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
    let none = std::collections::BTreeMap::new();
    let (mut slower, mut faster) = (0, 0);
    for scenario in scenarios {
        let name = scenario.name();
        let budget = budgets.scenario.get(&name).unwrap_or(&none);
        let found =
            verdict::compare(scenario, &budgets.allowance, budget, &measured.scenarios[&name], judged);
        for finding in &found {
            if finding.is_slower() {
                slower += 1;
                println!("SLOWER  {finding}\n{}", blame(finding, &functions.grown(finding, measured)));
            } else {
                faster += 1;
                println!("faster  {finding}");
            }
        }
    }
    let ratios = if same_lab && same_tools { true } else { by_yardstick(ctx, budgets, measured)? };
    println!(
        "guard: {} scenarios, {slower} budgets exceeded, {faster} undercut{}",
        scenarios.len(),
        if ratios { "" } else { ", and a ratio that is worse" }
    );
    if faster > 0 && slower == 0 {
        println!("guard: make the better figures the budgets: cargo xtask guard --bless");
    }
    if slower > 0 {
        println!("guard: if that is as it has to be, make it the budget: cargo xtask guard --bless");
    }
    Ok(slower == 0 && ratios)
}

/// The functions that grew, or how to find them.
fn blame(finding: &Finding, grown: &[Grown]) -> String {
    if grown.is_empty() {
        return match finding.whose.as_slice() {
            [whose] if whose.is_ours() => "        no function is known to have grown".to_owned(),
            _ => {
                "        which functions: cargo xtask profile --json, here and before the change, then --diff"
                    .to_owned()
            }
        };
    }
    let line = |Grown { function, before, after }: &Grown| {
        format!("        {:+} {function}: {before} before, {after} now", after - before)
    };
    grown.iter().take(SHOWN).map(line).collect::<Vec<_>>().join("\n")
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
