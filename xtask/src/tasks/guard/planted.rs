//! The guard's own test: one per cent more in one function of jiffy and one of init is found, and both are named.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use xtask::ctx::Ctx;
use xtask::guard::budget::Budgets;
use xtask::guard::functions::Baseline;
use xtask::guard::measure::{self, Measured, Subjects};
use xtask::guard::phase::Whose;
use xtask::guard::scenario::{Entry, Guest, Scenario};
use xtask::guard::verdict;

use crate::tasks::build;

/// Where a slowdown is: what calls `abi::planted::spin`.
struct Plant {
    phase: &'static str,
    whose: Whose,
    function: &'static str,
}

const JIFFY: Plant = Plant { phase: "build", whose: Whose::Jiffy, function: "vmm::machine::create_vcpus" };
const INIT: Plant = Plant { phase: "init", whose: Whose::Init, function: "guest_init::init::command" };
/// Instructions of one round of the planted loop, about.
const ROUND: u64 = 4;

/// Measures as it is and with the slowdowns, and compares.
pub fn run(ctx: &Ctx) -> Result<ExitCode> {
    build::all(ctx)?;
    build::agent(ctx)?;
    let smallest = |scenario: &&Scenario| scenario.guest == Guest::Fast && scenario.entry == Entry::Linux64;
    let all = Scenario::all();
    let scenario = *all.iter().find(smallest).context("no scenario with init")?;
    let step = ctx.step(format!("Starting {}, as it is", scenario.name()));
    let before = measure::measure(ctx, &Subjects::built(ctx)?, &[scenario])?;
    drop(step);
    let mut budgets = Budgets::default();
    budgets.bless(&before, &[scenario], "now");
    let mut functions = Baseline::default();
    functions.bless(&before);
    let rounds = |plant: &Plant| {
        let own = cost(&before, &scenario, plant)?;
        Ok::<_, anyhow::Error>((own / 100).div_ceil(ROUND))
    };
    let (jiffy, init) = build::planted(ctx, rounds(&JIFFY)?, rounds(&INIT)?)?;
    let step = ctx.step(format!("Starting {}, one per cent slower in two functions", scenario.name()));
    let after = measure::measure(ctx, &Subjects::of(ctx, jiffy, init)?, &[scenario])?;
    drop(step);
    let (budget, phases) = (&budgets.scenario[&scenario.name()], &after.scenarios[&scenario.name()]);
    let found = verdict::compare(&scenario, &budgets.allowance, budget, phases, |_| true);
    for plant in [JIFFY, INIT] {
        let is_it = |finding: &&verdict::Finding| {
            let most = finding.phases.iter().max_by_key(|(_, before, after)| after.saturating_sub(*before));
            let is_phase = most.is_some_and(|(phase, ..)| *phase == plant.phase);
            finding.is_slower() && is_phase && finding.whose == [plant.whose]
        };
        let Some(finding) = found.iter().find(is_it) else {
            let (before, after) = (cost(&before, &scenario, &plant)?, cost(&after, &scenario, &plant)?);
            bail!(
                "a planted slowdown was not found: {} ({}), {before} before, {after} now",
                plant.phase,
                plant.whose
            );
        };
        let grown = functions.grown(finding, &after);
        let first = grown.first().context("no function is named")?;
        ensure!(
            first.function == plant.function,
            "the planted slowdown is in {}, and the guard names {}",
            plant.function,
            first.function
        );
        println!(
            "found: {finding}\n       in {}: {} before, {} now",
            first.function, first.before, first.after
        );
    }
    println!("guard: both planted slowdowns were found, and their functions named");
    Ok(ExitCode::SUCCESS)
}

/// What is planted in, in instructions.
fn cost(measured: &Measured, scenario: &Scenario, plant: &Plant) -> Result<u64> {
    let functions = measured.functions(&scenario.name(), plant.phase, plant.whose);
    Ok(functions.with_context(|| format!("no phase {}", plant.phase))?.values().sum())
}
