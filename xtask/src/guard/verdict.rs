//! What was measured beside what it may take.

use std::collections::BTreeMap;
use std::fmt;

use super::budget::{Allowance, Allowances};
use super::phase::{Costs, Phase, Whose};
use super::scenario::{Guest, Scenario};

/// Something that took another number of instructions than its budget, by more than its allowance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The scenario's name.
    pub scenario: String,
    /// The phase, or several of them.
    pub phases: Vec<String>,
    /// Whose instructions.
    pub whose: Vec<Whose>,
    /// The budget.
    pub before: u64,
    /// What was measured.
    pub after: u64,
}

impl Finding {
    /// Whether it is for the worse.
    #[must_use]
    pub fn is_slower(&self) -> bool {
        self.after > self.before
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, phases, whose, before, after } = self;
        let whose: Vec<String> = whose.iter().map(ToString::to_string).collect();
        let by = after.cast_signed() - before.cast_signed();
        let percent = by as f64 * 100.0 / (*before).max(1) as f64;
        write!(
            f,
            "{scenario}: {} ({}): {before} before, {after} now ({by:+}, {percent:+.2} %)",
            phases.join(" and "),
            whose.join(" and ")
        )
    }
}

/// Costs that are judged together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unit {
    phases: Vec<&'static str>,
    whose: Vec<Whose>,
}

/// Phases in which nothing is on the way to the workload any more.
#[must_use]
pub fn is_after(phase: &str) -> bool {
    matches!(phase, "workload" | "power-off")
}

/// With what a cost is judged. Kernel threads that a guest's kernel starts at boot end when its scheduler has it so, before
/// or after init's first instruction: only both phases together repeat. So do its own work and the exits that it makes.
fn unit(phase: &str, whose: Whose) -> Unit {
    let phase = super::budget::ORDER.into_iter().find(|known| *known == phase).unwrap_or("exec");
    match whose {
        Whose::Guest | Whose::Exits => Unit {
            phases: if is_after(phase) { vec![phase] } else { vec!["kernel", "init"] },
            whose: vec![Whose::Guest, Whose::Exits],
        },
        whose => Unit { phases: vec![phase], whose: vec![whose] },
    }
}

fn allowance(unit: &Unit, scenario: &Scenario, all: &Allowances) -> Allowance {
    match unit.whose[0] {
        // How often the console's bytes come in one piece is the guest's and the host's scheduling.
        Whose::Jiffy if unit.phases[0] == "workload" => all.after,
        Whose::Jiffy | Whose::Init => all.ours,
        Whose::Host if scenario.guest == Guest::Mark => all.host,
        Whose::Host => all.host_once,
        Whose::Guest | Whose::Exits if is_after(unit.phases[0]) => all.after,
        Whose::Guest | Whose::Exits => all.boot,
    }
}

/// Sums of all that is judged, by [`Unit`].
fn sums<'a>(phases: impl Iterator<Item = (&'a str, &'a Costs)>) -> BTreeMap<Unit, u64> {
    let mut sums = BTreeMap::new();
    for (phase, costs) in phases {
        for (&whose, count) in costs {
            *sums.entry(unit(phase, whose)).or_default() += count;
        }
    }
    sums
}

/// Compares a scenario with its budgets; `judged` says whose figures can be compared at all.
#[must_use]
pub fn compare(
    scenario: &Scenario,
    allowances: &Allowances,
    budget: &BTreeMap<String, Costs>,
    measured: &[Phase],
    judged: impl Fn(Whose) -> bool,
) -> Vec<Finding> {
    let before = sums(budget.iter().map(|(name, costs)| (name.as_str(), costs)));
    let after = sums(measured.iter().map(|phase| (phase.name.as_str(), &phase.costs)));
    let mut units: Vec<&Unit> = before.keys().chain(after.keys()).collect();
    units.sort();
    units.dedup();
    let mut findings = Vec::new();
    for unit in units.into_iter().filter(|unit| unit.whose.iter().all(|&whose| judged(whose))) {
        let [before, after] = [&before, &after].map(|sums| sums.get(unit).copied().unwrap_or(0));
        if before.abs_diff(after) > allowance(unit, scenario, allowances).of(before) {
            findings.push(Finding {
                scenario: scenario.name(),
                phases: unit.phases.iter().map(ToString::to_string).collect(),
                whose: unit.whose.clone(),
                before,
                after,
            });
        }
    }
    findings
}

/// The new budgets of a scenario: what was measured, but the old figures of whatever is within its allowance. Code of
/// ours is taken as it is.
#[must_use]
pub fn blessed(
    scenario: &Scenario,
    allowances: &Allowances,
    old: &BTreeMap<String, Costs>,
    measured: &[Phase],
) -> BTreeMap<String, Costs> {
    let changed = compare(scenario, allowances, old, measured, |_| true);
    let moved = |phase: &str, whose: Whose| {
        let unit = unit(phase, whose);
        changed.iter().any(|finding| finding.phases == unit.phases && finding.whose == unit.whose)
    };
    let costs = |phase: &Phase| {
        let keep = |(&whose, &count): (&Whose, &u64)| {
            let old = old.get(&phase.name).and_then(|costs| costs.get(&whose));
            let count =
                old.filter(|_| !whose.is_ours() && !moved(&phase.name, whose)).copied().unwrap_or(count);
            (whose, count)
        };
        (phase.name.clone(), phase.costs.iter().map(keep).collect())
    };
    measured.iter().map(costs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        *Scenario::all().iter().find(|scenario| scenario.guest == Guest::Fast).unwrap()
    }

    fn phases(config: u64, host: u64, kernel: u64, init: u64) -> Vec<Phase> {
        let phase = |name: &str, costs: &[(Whose, u64)]| Phase {
            name: name.to_owned(),
            costs: costs.iter().copied().collect(),
            ..Phase::default()
        };
        vec![
            phase("config", &[(Whose::Jiffy, config), (Whose::Host, host)]),
            phase("kernel", &[(Whose::Guest, kernel), (Whose::Exits, 5_000_000)]),
            phase("init", &[(Whose::Init, 5_000), (Whose::Guest, init), (Whose::Exits, 5_000)]),
        ]
    }

    fn budgets(phases: &[Phase]) -> BTreeMap<String, Costs> {
        phases.iter().map(|phase| (phase.name.clone(), phase.costs.clone())).collect()
    }

    fn found(before: &[Phase], after: &[Phase]) -> Vec<String> {
        let found = compare(&scenario(), &Allowances::default(), &budgets(before), after, |_| true);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_per_cent_of_ours_is_found() {
        let before = phases(160_000, 165_000, 68_000_000, 240_000);
        assert!(found(&before, &before).is_empty());
        assert!(found(&before, &phases(160_100, 165_000, 68_000_000, 240_000)).is_empty());
        let name = scenario().name();
        assert_eq!(
            found(&before, &phases(161_600, 165_000, 68_000_000, 240_000)),
            [format!("{name}: config (jiffy): 160000 before, 161600 now (+1600, +1.00 %)")]
        );
        assert_eq!(
            found(&before, &phases(158_400, 165_000, 68_000_000, 240_000)).len(),
            1,
            "less is said too"
        );
    }

    #[test]
    fn what_moves_between_kernel_and_init_is_no_change() {
        let before = phases(160_000, 165_000, 68_000_000, 240_000);
        assert!(found(&before, &phases(160_000, 165_000, 67_750_000, 490_000)).is_empty());
        assert_eq!(found(&before, &phases(160_000, 165_000, 68_250_000, 240_000)).len(), 1);
    }

    #[test]
    fn a_phase_that_is_new_or_gone_is_a_change() {
        let before = phases(160_000, 600_000, 68_000_000, 240_000);
        assert_eq!(found(&before, &before[1..]).len(), 2);
        assert_eq!(found(&before[1..], &before).len(), 2);
    }

    #[test]
    fn blessing_changes_what_changed() {
        let old = phases(160_000, 165_000, 68_000_000, 240_000);
        let new = phases(160_010, 166_000, 67_750_000, 490_000);
        let blessed = |new: &[Phase]| blessed(&scenario(), &Allowances::default(), &budgets(&old), new);
        assert_eq!(blessed(&new), budgets(&phases(160_010, 165_000, 68_000_000, 240_000)));
        let slower = phases(160_000, 165_000, 69_000_000, 250_000);
        assert_eq!(blessed(&slower), budgets(&slower));
    }
}
