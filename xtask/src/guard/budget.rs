//! Budgets: what each phase of each scenario may take. The file is written by `--bless` and read by people.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::environment::MadeWith;
use super::measure::Measured;
use super::phase::Costs;
use super::scenario::Scenario;
use super::verdict;
use crate::cache;
use crate::ctx::Ctx;

/// The file, in the tree.
pub const FILE: &str = "xtask/budgets/budgets.toml";

/// Phases in their order, and what each may take.
pub type Phases = Vec<(String, Costs)>;

/// All that is in the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Budgets {
    /// What the figures were made with.
    pub made_with: MadeWith,
    /// What is let pass above a budget.
    pub allowance: Allowances,
    /// Figures that a change of ours does not touch, made in the same way.
    pub yardstick: Yardsticks,
    /// Instructions, by scenario and phase.
    #[serde(default)]
    pub scenario: BTreeMap<String, BTreeMap<String, Costs>>,
    /// From exec to the workload, or to the mark, in each release: by version and scenario.
    #[serde(default)]
    pub history: BTreeMap<String, BTreeMap<String, u64>>,
}

/// How much more than its budget something may take before that is a failure. So much less is no improvement either.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// In hundredths of the budget.
    pub percent: f64,
    /// Instructions on top of that.
    pub plus: u64,
}

/// Allowances, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Allowances {
    /// Code of ours, which repeats exactly: what a compiler's whim may change in a function that nobody touched.
    pub ours: Allowance,
    /// The host's kernel at starts that are made several times, and what of jiffy depends on its scheduling.
    pub host: Allowance,
    /// The host's kernel at starts that are made once.
    pub host_once: Allowance,
    /// The guest's kernel and its exits, up to the workload.
    pub boot: Allowance,
    /// The guest's kernel and its exits from there on.
    pub after: Allowance,
    /// Ratios to yardsticks.
    pub ratio: Allowance,
}

impl Default for Allowances {
    fn default() -> Self {
        let allowance = |percent, plus| Allowance { percent, plus };
        Self {
            ours: allowance(0.1, 20),
            host: allowance(1.0, 2_000),
            // One in some ten starts meets a 2 MiB page that has to be cleared, or a cache that is filled.
            host_once: allowance(1.0, 350_000),
            boot: allowance(0.3, 0),
            after: allowance(1.0, 10_000),
            ratio: allowance(1.0, 0),
        }
    }
}

/// What does not change with us. In instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Yardsticks {
    /// `floor`, the unavoidable system calls, from exec to its guest's mark.
    pub floor: u64,
    /// Debian's kernel with 512 MiB on QEMU's microvm, to init.
    pub microvm: u64,
}

impl Allowance {
    /// Instructions that may come on top of `budget`.
    #[must_use]
    pub fn of(self, budget: u64) -> u64 {
        (budget as f64 * self.percent / 100.0) as u64 + self.plus
    }
}

impl Allowances {
    /// Without what is given for single events: by less than a part of a budget, nothing has changed.
    #[must_use]
    pub fn in_parts(self) -> Self {
        let part = |allowance: Allowance| Allowance { plus: 0, ..allowance };
        let Self { ours, host, host_once, boot, after, ratio } = self;
        Self {
            ours: part(ours),
            host: part(host),
            host_once: part(host_once),
            boot: part(boot),
            after: part(after),
            ratio: part(ratio),
        }
    }
}

impl Budgets {
    /// Reads the file; empty if there is none.
    pub fn read(ctx: &Ctx) -> Result<Self> {
        let path = ctx.root.join(FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
        Self::parse(&text).with_context(|| format!("{FILE} is not as it should be"))
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Writes the file.
    pub fn write(&self, ctx: &Ctx) -> Result<()> {
        let path = ctx.root.join(FILE);
        fs::create_dir_all(path.parent().context("a file without a folder")?)?;
        cache::write(&path, self.to_string().as_bytes())
    }

    /// Takes over what was measured. Figures that are within the part of their allowance stay as they are: only what changed
    /// shows in the file's history, and no figure moves in small steps that nobody sees.
    pub fn bless(&mut self, measured: &Measured, scenarios: &[Scenario], version: &str) {
        for scenario in scenarios {
            let name = scenario.name();
            let Some(phases) = measured.scenarios.get(&name) else { continue };
            let old = self.scenario.remove(&name).unwrap_or_default();
            let new = verdict::blessed(scenario, &self.allowance, &old, phases);
            let total = phases.iter().take_while(|phase| !verdict::is_after(&phase.name));
            let total =
                total.map(|phase| new.get(&phase.name).map_or(0, |costs| costs.values().sum::<u64>())).sum();
            self.scenario.insert(name.clone(), new);
            self.history.entry(version.to_owned()).or_default().insert(name, total);
        }
    }
}

/// The order of phases in time, for files and pictures.
pub static ORDER: [&str; 14] = [
    "exec",
    "config",
    "open",
    "memory",
    "load",
    "build",
    "start",
    "firmware",
    "mark",
    "kernel",
    "init",
    "workload",
    "power-off",
    "end",
];

/// The phases of a scenario, in the order of time.
pub fn in_order(phases: &BTreeMap<String, Costs>) -> impl Iterator<Item = (&'static str, &Costs)> {
    ORDER.into_iter().filter_map(|name| Some((name, phases.get(name)?)))
}

impl fmt::Display for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { made_with, allowance, yardstick, scenario, history } = self;
        let Allowances { ours, host, host_once, boot, after, ratio } = allowance;
        writeln!(
            f,
            "# What each phase of a start may take, in instructions of the nested lab; see docs/measuring.md. Written by"
        )?;
        writeln!(
            f,
            "# `cargo xtask guard --bless`: the difference in a commit is the record of what it made faster or slower."
        )?;
        writeln!(f, "\n[made-with]\n{made_with}")?;
        writeln!(f, "# What is let pass above a budget: per cent of it, and instructions.\n[allowance]")?;
        let rows = [
            ("ours", ours, "code of jiffy, init and the firmware; between two runs it may not differ at all"),
            ("host", host, "the host's kernel, the least of several starts"),
            ("host-once", host_once, "the host's kernel where a scenario is started once"),
            ("boot", boot, "guest and exits together, phases kernel and init together"),
            ("after", after, "guest and exits together, later phases; jiffy for the workload's console"),
            ("ratio", ratio, "where there are only ratios to a yardstick"),
        ];
        for (name, Allowance { percent, plus }, why) in rows {
            let value = format!("{{ percent = {percent:.1}, plus = {} }}", Grouped(*plus));
            writeln!(f, "{name:<9} = {value:<35} # {why}")?;
        }
        writeln!(f, "\n# What no change of ours touches.\n[yardstick]")?;
        writeln!(
            f,
            "floor   = {:<13} # the unavoidable system calls, exec to mark",
            Grouped(yardstick.floor).to_string()
        )?;
        writeln!(
            f,
            "microvm = {:<13} # Debian's kernel, 512 MiB, on QEMU's microvm, to init",
            Grouped(yardstick.microvm).to_string()
        )?;
        let known: Vec<String> = Scenario::all().iter().map(Scenario::name).collect();
        for name in known.iter().filter(|name| scenario.contains_key(*name)) {
            writeln!(f, "\n[scenario.{name}]")?;
            for (phase, costs) in in_order(&scenario[name]) {
                let costs: Vec<String> =
                    costs.iter().map(|(whose, n)| format!("{whose} = {}", Grouped(*n))).collect();
                writeln!(f, "{phase:<9} = {{ {} }}", costs.join(", "))?;
            }
        }
        for (version, totals) in history {
            writeln!(f, "\n# From exec to the workload, or to the guest's mark.\n[history.{version:?}]")?;
            for name in known.iter().filter(|name| totals.contains_key(*name)) {
                writeln!(f, "{name:<30} = {}", Grouped(totals[name]))?;
            }
        }
        Ok(())
    }
}

/// A number with its digits in groups of three.
pub struct Grouped(pub u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push('_');
            }
            text.push(digit);
        }
        f.write_str(&text)
    }
}
