//! `guard`: fails when a phase of a start has become slower, and names it and the functions that grew.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use xtask::ctx::Ctx;
use xtask::guard::budget::Budgets;
use xtask::guard::environment::MadeWith;
use xtask::guard::functions::Baseline;
use xtask::guard::measure::{self, Measured, Subjects};
use xtask::guard::scenario::Scenario;
use xtask::guard::{page, verdict, yardstick};

use super::build;

mod check;
mod planted;
mod report;

/// Hold what each phase of a start takes, in instructions, against its budget
///
/// Scenarios are run twice in the nested lab, where counts repeat: one that does not is a failure as well. Budgets are in
/// xtask/budgets; docs/measuring.md says what they mean, CONTRIBUTING.md what to do when one is exceeded.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// All scenarios instead of the chosen dozen
    #[arg(long)]
    all: bool,
    /// Only scenarios whose names contain this
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    only: Vec<String>,
    /// Show each phase of each scenario
    #[arg(long)]
    phases: bool,
    /// Make what is measured the budgets, and docs/boot-time.md of these
    #[arg(long)]
    bless: bool,
    /// Make docs/boot-time.md and its pictures of the budgets; measure nothing
    #[arg(long, conflicts_with_all = ["bless", "all", "only"])]
    docs: bool,
    /// Build jiffy and init with one function each that makes a phase one per cent slower, and require that both are named
    #[arg(long, conflicts_with_all = ["bless", "docs", "all", "only"])]
    planted: bool,
}

/// Measures, and checks or blesses.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    let mut budgets = Budgets::read(ctx)?;
    if args.docs {
        page::write(&ctx.root, &budgets)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.planted {
        return planted::run(ctx);
    }
    let scenarios = chosen(args);
    ensure!(!scenarios.is_empty(), "no scenario has such a name; all: {}", names(&Scenario::all()));
    build::all(ctx)?;
    build::agent(ctx)?;
    let step = ctx.step(format!("Starting {} scenarios twice, counting instructions", scenarios.len()));
    let measured = measure::measure(ctx, &Subjects::built(ctx)?, &scenarios)?;
    drop(step);
    if args.phases {
        print!("{}", report::phases(&measured, &scenarios));
    }
    let repeats = check::repeats(&measured);
    if args.bless {
        ensure!(repeats, "what does not repeat cannot be a budget");
        bless(ctx, &mut budgets, &measured, &scenarios)?;
        return Ok(ExitCode::SUCCESS);
    }
    let kept = check::against(ctx, &budgets, &measured, &scenarios)?;
    Ok(if repeats && kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(args: &Args) -> Vec<Scenario> {
    let is_chosen = |scenario: &Scenario| match args.only.as_slice() {
        [] => args.all || scenario.always,
        parts => parts.iter().any(|part| scenario.name().contains(part)),
    };
    Scenario::all().into_iter().filter(is_chosen).collect()
}

fn names(scenarios: &[Scenario]) -> String {
    scenarios.iter().map(Scenario::name).collect::<Vec<_>>().join(", ")
}

/// Makes what was measured the budgets.
fn bless(ctx: &Ctx, budgets: &mut Budgets, measured: &Measured, scenarios: &[Scenario]) -> Result<()> {
    let here = MadeWith::here(ctx)?;
    let is_partial = budgets.scenario.keys().any(|name| !measured.scenarios.contains_key(name));
    ensure!(
        here.differences(&budgets.made_with).is_empty() || !is_partial,
        "the budgets were made with other tools, and all of them have to be made anew: cargo xtask guard --all --bless\n{}",
        here.differences(&budgets.made_with)
    );
    for scenario in scenarios {
        let name = scenario.name();
        let Some(old) = budgets.scenario.get(&name) else {
            println!("blessed: {name}, which had no budget");
            continue;
        };
        for finding in
            verdict::compare(scenario, &budgets.allowance, old, &measured.scenarios[&name], |_| true)
        {
            println!("blessed: {finding}");
        }
    }
    let (floor, _) = build::floor(ctx)?;
    let step = ctx.step("Measuring floor, and QEMU's microvm");
    budgets.yardstick = yardstick::measure(ctx, &floor)?;
    drop(step);
    budgets.made_with = here;
    budgets.bless(measured, scenarios, env!("CARGO_PKG_VERSION"));
    budgets.write(ctx)?;
    let mut functions = Baseline::read(ctx)?;
    functions.bless(measured);
    functions.write(ctx)?;
    page::write(&ctx.root, budgets)
}
