//! What each function executes in each phase: by this a failure names those that grew.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::budget::Grouped;
use super::measure::Measured;
use super::phase::Whose;
use super::verdict::{self, Finding};
use crate::cache;
use crate::ctx::Ctx;
use crate::profile::{self, Functions};

/// The file, in the tree.
pub const FILE: &str = "xtask/budgets/functions.toml";
/// A function is kept that has at least this part of what is of the same code in a phase: one in so many instructions.
const PART: u64 = 100;

/// Functions, for all scenarios in which they are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    #[serde(default)]
    table: Vec<Table>,
}

/// One phase's, in some scenarios.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    phase: String,
    whose: Whose,
    scenarios: Vec<String>,
    functions: Functions,
}

/// A function that executes more than it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grown {
    /// Its name, with its path.
    pub function: String,
    /// Instructions, before.
    pub before: u64,
    /// Instructions, now.
    pub after: u64,
}

impl Baseline {
    /// Reads the file; empty if there is none.
    pub fn read(ctx: &Ctx) -> Result<Self> {
        let path = ctx.root.join(FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
        toml::from_str(&text).with_context(|| format!("{FILE} is not as it should be"))
    }

    /// Writes the file.
    pub fn write(&self, ctx: &Ctx) -> Result<()> {
        cache::write(&ctx.root.join(FILE), self.to_string().as_bytes())
    }

    /// Takes over what was measured; of kernels only what changed, since they do not repeat to the instruction.
    pub fn bless(&mut self, measured: &Measured) {
        let old = self.clone();
        for table in &mut self.table {
            table.scenarios.retain(|name| !measured.scenarios.contains_key(name));
        }
        for (name, phases) in &measured.scenarios {
            let mut kept: BTreeMap<(&str, Whose), Functions> = BTreeMap::new();
            for phase in phases {
                for (&whose, functions) in &phase.functions {
                    // Those of others are many, and move between phases that are judged together.
                    let first = verdict::first_judged_with(&phase.name, whose);
                    let phase = if whose.is_ours() { phase.name.as_str() } else { first };
                    let sums = kept.entry((phase, whose)).or_default();
                    functions
                        .iter()
                        .for_each(|(name, count)| *sums.entry(name.clone()).or_default() += count);
                }
            }
            for ((phase, whose), functions) in kept {
                let functions = large(&functions);
                let known = old.functions(name, phase, whose);
                let known = known.filter(|known| !whose.is_ours() && are_much_the_same(known, &functions));
                self.add(name, phase, whose, known.cloned().unwrap_or(functions));
            }
        }
        self.table.retain(|table| !table.scenarios.is_empty());
        let place = |table: &Table| super::budget::ORDER.iter().position(|phase| *phase == table.phase);
        for table in &mut self.table {
            table.scenarios.sort();
        }
        self.table.sort_by(|one, other| {
            let key = |table: &Table| (place(table), table.whose, table.scenarios.clone());
            key(one).cmp(&key(other))
        });
    }

    fn add(&mut self, scenario: &str, phase: &str, whose: Whose, functions: Functions) {
        let same = |table: &&mut Table| {
            (table.phase.as_str(), table.whose, &table.functions) == (phase, whose, &functions)
        };
        match self.table.iter_mut().find(same) {
            Some(table) => table.scenarios.push(scenario.to_owned()),
            None => self.table.push(Table {
                phase: phase.to_owned(),
                whose,
                scenarios: vec![scenario.to_owned()],
                functions,
            }),
        }
    }

    fn functions(&self, scenario: &str, phase: &str, whose: Whose) -> Option<&Functions> {
        let is_it = |table: &&Table| {
            table.phase == phase
                && table.whose == whose
                && table.scenarios.iter().any(|name| name == scenario)
        };
        Some(&self.table.iter().find(is_it)?.functions)
    }

    /// The functions by which something grew, those that grew most first; empty where nothing is known of them.
    #[must_use]
    pub fn grown(&self, finding: &Finding, measured: &Measured) -> Vec<Grown> {
        // What moves between phases that are judged together has not grown.
        let (mut before, mut after) = (Functions::new(), Functions::new());
        for (phase, ..) in &finding.phases {
            for &whose in &finding.whose {
                let known = self.functions(&finding.scenario, phase, whose);
                let now = measured.functions(&finding.scenario, phase, whose);
                for (sums, functions) in [(&mut before, known), (&mut after, now)] {
                    for (name, count) in functions.into_iter().flatten() {
                        *sums.entry(name.clone()).or_default() += count;
                    }
                }
            }
        }
        if before.is_empty() {
            return Vec::new();
        }
        // So little explains nothing, and what was too small to be kept has not grown from nothing.
        let least = (finding.after.saturating_sub(finding.before) / 20).max(1);
        let kept = least_kept(&after);
        let of = |phase: Functions| BTreeMap::from([(String::new(), phase)]);
        let all = profile::grown(&of(before), &of(after)).into_iter();
        all.filter(|one| one.after >= one.before + least && (one.before > 0 || one.after >= kept))
            .map(|profile::Grown { function, before, after, .. }| Grown { function, before, after })
            .collect()
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions of functions, by scenario and phase: by these a failure of `cargo xtask guard` names those that grew."
        )?;
        writeln!(
            f,
            "# Functions with less than a {PART}th of their kind in a phase are left out; those of kernels are in the first of the\n\
             # phases that they are judged with. Written by --bless."
        )?;
        for Table { phase, whose, scenarios, functions } in &self.table {
            writeln!(
                f,
                "\n[[table]]\nphase = {phase:?}\nwhose = \"{whose}\"\nscenarios = {scenarios:?}\n[table.functions]"
            )?;
            for (function, count) in functions {
                writeln!(f, "{function:?} = {}", Grouped(*count))?;
            }
        }
        Ok(())
    }
}

/// Whether no function changed by more than a quarter of what is kept; one that is not there has at most that.
fn are_much_the_same(known: &Functions, functions: &Functions) -> bool {
    let least = least_kept(functions);
    let of = |functions: &Functions, name| functions.get(name).copied().unwrap_or(least);
    let mut names = known.keys().chain(functions.keys());
    names.all(|name| of(known, name).abs_diff(of(functions, name)) <= least / 4)
}

/// The functions that are kept.
fn large(functions: &Functions) -> Functions {
    let least = functions.values().sum::<u64>().div_ceil(PART);
    functions
        .iter()
        .filter(|(_, count)| **count >= least)
        .map(|(name, count)| (name.clone(), *count))
        .collect()
}

/// Instructions of the smallest function of these that is kept.
fn least_kept(functions: &Functions) -> u64 {
    functions.values().sum::<u64>().div_ceil(PART)
}

#[cfg(test)]
mod tests {
    use super::super::phase::Phase;
    use super::*;

    fn measured(counts: [(&str, &[(&str, u64)]); 2]) -> Measured {
        let phase = |functions: &[(&str, u64)]| Phase {
            name: "config".to_owned(),
            functions: [(Whose::Jiffy, functions.iter().map(|(f, n)| ((*f).to_owned(), *n)).collect())]
                .into(),
            ..Phase::default()
        };
        let scenarios = counts.map(|(name, functions)| (name.to_owned(), vec![phase(functions)]));
        Measured { scenarios: scenarios.into(), differences: Vec::new() }
    }

    const BEFORE: &[(&str, u64)] = &[("a::parse", 90_000), ("<T as b>::check", 9_900), ("tiny", 100)];

    #[test]
    fn the_file_is_read_as_written() {
        let mut baseline = Baseline::default();
        baseline.bless(&measured([("one", BEFORE), ("two", BEFORE)]));
        let text = baseline.to_string();
        assert_eq!(text.matches("[[table]]").count(), 1, "what is the same is there once");
        assert_eq!(toml::from_str::<Baseline>(&text).unwrap(), baseline);
        assert!(!text.contains("tiny"));
        baseline.bless(&measured([("one", BEFORE), ("two", &[("a::parse", 1)])]));
        assert_eq!(baseline.to_string().matches("[[table]]").count(), 2);
    }

    #[test]
    fn only_what_changed_of_a_kernel_is_blessed() {
        let of = |count: u64| {
            let functions = [("clear_page".to_owned(), count), ("memcpy".to_owned(), 10_000)].into();
            let name = "kernel".to_owned();
            let phase = Phase { name, functions: [(Whose::Guest, functions)].into(), ..Phase::default() };
            Measured { scenarios: [("one".to_owned(), vec![phase])].into(), differences: Vec::new() }
        };
        let mut baseline = Baseline::default();
        baseline.bless(&of(90_000));
        let first = baseline.to_string();
        baseline.bless(&of(90_200));
        assert_eq!(baseline.to_string(), first);
        baseline.bless(&of(92_900));
        assert!(baseline.to_string().contains("\"clear_page\" = 92_900"), "{baseline}");
    }

    #[test]
    fn functions_that_grew_are_named() {
        let mut baseline = Baseline::default();
        baseline.bless(&measured([("one", BEFORE), ("two", BEFORE)]));
        let after = [("a::parse", 90_000), ("<T as b>::check", 10_900), ("tiny", 110), ("new", 1_100)];
        let measured = measured([("one", &after), ("two", BEFORE)]);
        let finding = Finding {
            scenario: "one".to_owned(),
            phases: vec![("config", 100_000, 102_110)],
            whose: vec![Whose::Jiffy],
            before: 100_000,
            after: 102_110,
        };
        let grown = baseline.grown(&finding, &measured);
        let names: Vec<_> = grown.iter().map(|grown| grown.function.as_str()).collect();
        assert_eq!(names, ["new", "<T as b>::check"]);
        assert_eq!((grown[1].before, grown[1].after), (9_900, 10_900));
        assert!(Baseline::default().grown(&finding, &measured).is_empty(), "nothing is known of before");
    }
}
