//! What was measured beside what it may take.

use std::collections::BTreeMap;
use std::fmt;

use super::budget::{Allowance, Allowances, ORDER};
use super::phase::{Costs, Phase, Whose};
use super::scenario::{Guest, Scenario};

/// Something that took another number of instructions than its budget, by more than its allowance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The scenario's name.
    pub scenario: String,
    /// The phases that are judged together, each with its budget and what was measured.
    pub phases: Vec<(&'static str, u64, u64)>,
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

    /// The phases and whose they are, in words.
    #[must_use]
    pub fn what(&self) -> String {
        let whose: Vec<String> = self.whose.iter().map(ToString::to_string).collect();
        let phases = match self.phases.as_slice() {
            [(one, ..)] => (*one).to_owned(),
            [(first, ..), .., (last, ..)] => format!("{first} to {last}"),
            [] => String::new(),
        };
        format!("{phases} ({})", whose.join(" and "))
    }

    /// Before and after, in words.
    #[must_use]
    pub fn change(&self) -> String {
        change(self.before, self.after)
    }
}

/// Before and after, in words.
#[must_use]
pub fn change(before: u64, after: u64) -> String {
    let by = after.cast_signed() - before.cast_signed();
    let percent = by as f64 * 100.0 / before.max(1) as f64;
    format!("{before} before, {after} now ({by:+}, {percent:+.2} %)")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.scenario, self.what(), self.change())
    }
}

/// Costs that are judged together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unit {
    phases: &'static [&'static str],
    whose: &'static [Whose],
}

/// Phases in which nothing is on the way to the workload any more.
#[must_use]
pub fn is_after(phase: &str) -> bool {
    matches!(phase, "workload" | "power-off" | "end")
}

/// With what a cost is judged: only what repeats from one build to the next says something.
///
/// - Where the host's kernel maps pages of a program depends on where the linker has put its functions: it moves
///   from phase to phase.
/// - When the vCPU's thread has started, jiffy's first thread goes on beside it, and ends what it does when the host's scheduler
///   has it so: before or after the entry into the guest, or, where the guest ends at once, at the end. The
///   heap that both share tidies itself up a little sooner or later.
/// - Threads that a guest's kernel starts at boot end before or after init's first instruction, likewise; and its own work and
///   the exits that it makes stand for one another. A thread that takes in RAM is longer at it than init's whole life, and its
///   steps are anywhere.
fn unit(scenario: &Scenario, phase: &str, whose: Whose) -> Unit {
    let phases: &[&str] = match (whose, phase) {
        (Whose::Jiffy, "build" | "start" | "firmware" | "mark" | "power-off" | "end")
            if scenario.guest == Guest::Mark =>
        {
            &["build", "start", "firmware", "mark", "power-off", "end"]
        }
        (Whose::Jiffy, "build" | "start" | "firmware" | "kernel" | "init" | "workload" | "power-off")
            if scenario.takes_in_ram_beside() =>
        {
            &["build", "start", "firmware", "kernel", "init", "workload", "power-off"]
        }
        (Whose::Guest | Whose::Exits, "kernel" | "init" | "workload" | "power-off")
            if scenario.takes_in_ram_beside() =>
        {
            &["kernel", "init", "workload", "power-off"]
        }
        _ => usual_phases(phase, whose),
    };
    let whose: &[Whose] = match whose {
        Whose::Jiffy => &[Whose::Jiffy],
        Whose::Init => &[Whose::Init],
        Whose::Firmware => &[Whose::Firmware],
        Whose::Host => &[Whose::Host],
        Whose::Guest | Whose::Exits => &[Whose::Guest, Whose::Exits],
    };
    Unit { phases, whose }
}

/// The phases that a cost of one phase is judged with, where a scenario says nothing else.
fn usual_phases(phase: &str, whose: Whose) -> &'static [&'static str] {
    match (whose, phase) {
        (Whose::Host, _) => &ORDER[..9],
        (Whose::Jiffy, "build" | "start" | "firmware" | "kernel") => {
            &["build", "start", "firmware", "kernel"]
        }
        (Whose::Guest | Whose::Exits, "kernel" | "init") => &["kernel", "init"],
        _ => {
            let index = ORDER.iter().position(|known| *known == phase).unwrap_or(0);
            &ORDER[index..=index]
        }
    }
}

/// The first of them, whatever is booted.
pub(super) fn first_judged_with(phase: &str, whose: Whose) -> &'static str {
    usual_phases(phase, whose)[0]
}

fn allowance(unit: &Unit, scenario: &Scenario, all: &Allowances) -> Allowance {
    // Not only in these phases where the guest's kernel is still busy with what it began before.
    let after = unit.phases.contains(&"workload");
    match unit.whose[0] {
        // How often the console's bytes come in one piece is the guest's and the host's scheduling.
        Whose::Jiffy if after => all.after,
        // Which thread ends first, and so who waits for whom and what goes back to whose arena, is the host's scheduling.
        Whose::Jiffy if matches!(unit.phases[0], "power-off" | "end") => all.host,
        Whose::Jiffy | Whose::Init | Whose::Firmware => all.ours,
        Whose::Host if scenario.guest == Guest::Mark => all.host,
        // Most of it is what the host's kernel does.
        Whose::Guest | Whose::Exits if unit.phases[0] == "firmware" => all.host,
        Whose::Host => all.host_once,
        Whose::Guest | Whose::Exits if after || is_after(unit.phases[0]) => all.after,
        Whose::Guest | Whose::Exits => all.boot,
    }
}

/// What a unit costs, by phase.
fn costs<'a>(unit: &Unit, costs_of: impl Fn(&str) -> Option<&'a Costs>) -> Vec<(&'static str, u64)> {
    let sum = |costs: &Costs| unit.whose.iter().filter_map(|whose| costs.get(whose)).sum();
    unit.phases.iter().filter_map(|&phase| Some((phase, sum(costs_of(phase)?)))).collect()
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
    let before = |phase: &str| budget.get(phase);
    let after = |phase: &str| Some(&measured.iter().find(|known| known.name == phase)?.costs);
    let all = ORDER.iter().flat_map(|phase| Whose::ALL.map(|whose| (*phase, whose)));
    let present = |&(phase, whose): &(&str, Whose)| {
        [before(phase), after(phase)].iter().flatten().any(|costs| costs.contains_key(&whose))
    };
    let mut units: Vec<Unit> =
        all.filter(present).map(|(phase, whose)| unit(scenario, phase, whose)).collect();
    units.sort();
    units.dedup();
    let mut findings = Vec::new();
    for unit in units.into_iter().filter(|unit| unit.whose.iter().all(|&whose| judged(whose))) {
        let [old, new] = [costs(&unit, before), costs(&unit, after)];
        let [was, is] = [&old, &new].map(|parts| parts.iter().map(|(_, count)| count).sum::<u64>());
        if was.abs_diff(is) > allowance(&unit, scenario, allowances).of(was) {
            let of =
                |parts: &[(&str, u64)], phase| parts.iter().find(|(name, _)| *name == phase).map(|(_, n)| *n);
            let phases = unit.phases.iter().filter_map(|&phase| {
                let both = (of(&old, phase), of(&new, phase));
                (both != (None, None)).then(|| (phase, both.0.unwrap_or(0), both.1.unwrap_or(0)))
            });
            findings.push(Finding {
                scenario: scenario.name(),
                phases: phases.collect(),
                whose: unit.whose.to_vec(),
                before: was,
                after: is,
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
    let changed = compare(scenario, &allowances.in_parts(), old, measured, |_| true);
    let moved = |phase: &str, whose: Whose| {
        let unit = unit(scenario, phase, whose);
        changed.iter().any(|finding| {
            finding.whose == unit.whose && finding.phases.iter().any(|(name, ..)| unit.phases.contains(name))
        })
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
    fn ram_that_is_taken_in_later_or_sooner_is_no_change() {
        let phases = |kernel, workload, off| {
            [("kernel", kernel), ("workload", workload), ("power-off", off)].map(|(name, guest)| Phase {
                name: name.to_owned(),
                costs: Costs::from([(Whose::Guest, guest), (Whose::Jiffy, guest / 100)]),
                ..Phase::default()
            })
        };
        let before = phases(35_200_000, 5_400_000, 1_500_000);
        let found = |name: &str, after: &[Phase]| {
            let scenario = *Scenario::all().iter().find(|scenario| scenario.name() == name).unwrap();
            compare(&scenario, &Allowances::default(), &budgets(&before), after, |_| true)
        };
        let later = phases(34_700_000, 4_600_000, 2_800_000);
        assert_eq!(found("fast-linux64-512M-mmio", &later), []);
        assert_eq!(found("fast-linux64-512M-pci-pmem", &later), []);
        assert!(!found("fast-linux64-512M-mmio-disk", &later).is_empty());
        assert!(!found("debian-linux64-512M-mmio", &later).is_empty());
        let more: Vec<_> = found("fast-linux64-512M-mmio", &phases(35_200_000, 6_400_000, 1_500_000))
            .iter()
            .map(Finding::what)
            .collect();
        assert_eq!(more, ["kernel to power-off (guest and exits)"]);
    }

    #[test]
    fn a_phase_that_is_new_or_gone_is_a_change() {
        let before = phases(160_000, 600_000, 68_000_000, 240_000);
        assert_eq!(found(&before, &before[1..]).len(), 2);
        assert_eq!(found(&before[1..], &before).len(), 2);
    }

    #[test]
    fn all_phases_of_the_host_are_one() {
        let with = |exec: u64, config: u64| {
            let phase = |name: &str, count| Phase {
                name: name.to_owned(),
                costs: Costs::from([(Whose::Host, count)]),
                ..Phase::default()
            };
            vec![phase("exec", exec), phase("config", config)]
        };
        let before = with(30_000_000, 10_000_000);
        assert!(found(&before, &with(20_000_000, 20_000_000)).is_empty());
        let found = compare(
            &scenario(),
            &Allowances::default(),
            &budgets(&before),
            &with(30_000_000, 11_000_000),
            |_| true,
        );
        assert_eq!(found[0].what(), "exec to config (host)");
        assert_eq!(found[0].phases, [("exec", 30_000_000, 30_000_000), ("config", 10_000_000, 11_000_000)]);
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
