//! Phases of a start, and whose instructions they are made of.

use std::collections::BTreeMap;
use std::fmt;

use abi::timeline::Mark;
use serde::{Deserialize, Serialize};

use super::verdict;
use crate::profile::{self, Code, Functions};
use crate::timeline::Row;

/// Whose instructions. What is ours comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// `jiffy`'s own, on its way to the guest.
    Jiffy,
    /// `jiffy-init`'s own.
    Init,
    /// The firmware's own.
    Firmware,
    /// The host kernel's, on behalf of `jiffy` on that way.
    Host,
    /// The guest kernel's.
    Guest,
    /// For exits of the guest: the host's kernel, KVM, memory that the guest touches first, and `jiffy` as it serves them.
    Exits,
}

impl Whose {
    /// All, in their order.
    pub const ALL: [Self; 6] =
        [Self::Jiffy, Self::Init, Self::Firmware, Self::Host, Self::Guest, Self::Exits];

    /// Whether it is this project's own code, whose counts repeat to the instruction whatever happens beside it.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Jiffy | Self::Init | Self::Firmware)
    }

    /// What the profiler calls such code, or most of it: by its functions it is known what grew.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Jiffy => Code::Vmm,
            Self::Init => Code::Init,
            Self::Firmware => Code::Firmware,
            Self::Host | Self::Exits => Code::LabKernel,
            Self::Guest => Code::GuestKernel,
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jiffy => "jiffy",
            Self::Init => "init",
            Self::Firmware => "firmware",
            Self::Host => "host",
            Self::Guest => "guest",
            Self::Exits => "exits",
        })
    }
}

/// Instructions, by whose they are.
pub type Costs = BTreeMap<Whose, u64>;

/// A part of a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// What was executed in it.
    pub costs: Costs,
    /// Virtual nanoseconds in which nothing that counts here was executed: `jiffy` waited.
    pub idle: u64,
    /// Functions: of ours in all phases, of others on the way to the workload.
    pub functions: BTreeMap<Whose, Functions>,
}

impl Phase {
    /// All instructions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.costs.values().sum()
    }

    fn add(&mut self, more: Self) {
        self.idle += more.idle;
        for (whose, count) in more.costs {
            *self.costs.entry(whose).or_default() += count;
        }
        for (whose, functions) in more.functions {
            let sums = self.functions.entry(whose).or_default();
            functions.into_iter().for_each(|(name, count)| *sums.entry(name).or_default() += count);
        }
    }
}

/// The phase that ends with an event, if it is one that is watched, and whether the guest runs in it.
fn ends_with(row: &Row) -> Option<(&'static str, bool)> {
    Some(match (row.event.as_str(), row.mark()) {
        ("exec", _) => ("exec", false),
        ("config-read", _) => ("config", false),
        ("kvm-opened", _) => ("open", false),
        ("memory-mapped", _) => ("memory", false),
        ("kernel-loaded", _) => ("load", false),
        ("vcpus-ready", _) => ("build", false),
        ("first-run", _) => ("start", false),
        (_, Some(Mark::FIRMWARE_START | Mark::FIRMWARE_END)) => ("firmware", true),
        (_, Some(Mark::INIT_START)) => ("kernel", true),
        (_, Some(Mark::WORKLOAD_START)) => ("init", true),
        (_, Some(Mark::WORKLOAD_END)) => ("workload", true),
        (_, Some(Mark::USER)) => ("mark", false),
        ("guest-stopped", _) => ("power-off", true),
        ("vm-destroyed", _) => ("end", false),
        _ => return None,
    })
}

/// Instructions on the way from the event before to this one.
fn busy(row: &Row) -> u64 {
    match row.event.as_str() {
        // Two threads one after the other, neither of which waits: the one that makes the vCPU's, and that.
        "first-run" => row.took_ns,
        _ => row.cpu_ns.unwrap_or(row.took_ns),
    }
}

/// Makes phases of a run's timeline, and of what the profiler counted in a run that was the same.
pub(super) fn phases(rows: &[Row], profiled: &[profile::Phase]) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    for (row, profiled) in rows.iter().zip(profiled) {
        let Some((name, guest_runs)) = ends_with(row) else { continue };
        let sum =
            |code: Code| profiled.costs.get(&code).map_or(0, |functions| functions.values().sum::<u64>());
        let [jiffy, init, firmware] = [Code::Vmm, Code::Init, Code::Firmware].map(sum);
        let parts = if guest_runs {
            let guest = sum(Code::GuestKernel) + sum(Code::GuestOther);
            let exits = busy(row).saturating_sub(jiffy + guest + init + firmware);
            let ours = [(Whose::Jiffy, jiffy), (Whose::Init, init), (Whose::Firmware, firmware)];
            [ours.as_slice(), &[(Whose::Guest, guest), (Whose::Exits, exits)]].concat()
        } else {
            // At the end jiffy waits for KVM, most of all.
            let host = if name == "end" { 0 } else { busy(row).saturating_sub(jiffy) };
            [(Whose::Jiffy, jiffy), (Whose::Host, host)].to_vec()
        };
        let costs: Costs = parts.into_iter().filter(|(_, count)| *count > 0).collect();
        let functions = costs.keys().filter(|whose| whose.is_ours() || !verdict::is_after(name));
        let functions =
            functions.filter_map(|&whose| Some((whose, named(profiled.costs.get(&whose.code())?))));
        let idle = row.took_ns.saturating_sub(busy(row));
        let phase = Phase { name: name.to_owned(), idle, functions: functions.collect(), costs };
        match phases.last_mut().filter(|last| last.name == name) {
            Some(last) => last.add(phase),
            None => phases.push(phase),
        }
    }
    phases
}

/// Functions by names that are the same in every build: the compiler numbers those of which there are several.
fn named(functions: &Functions) -> Functions {
    let mut sums = Functions::new();
    for (name, count) in functions {
        let plain = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let plain = plain.strip_suffix('.').filter(|plain| !plain.is_empty()).unwrap_or(name);
        *sums.entry(plain.strip_suffix(".llvm").unwrap_or(plain).to_owned()).or_default() += count;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline;

    const SAID: &str = concat!(
        r#"a warning
{"origin_ns":7,"rows":[{"event":"exec","at_ns":4,"took_ns":400,"cpu_ns":300},"#,
        r#"{"event":"first-run","at_ns":9,"took_ns":90,"cpu_ns":20},"#,
        r#"{"event":"mark","at_ns":9,"took_ns":60,"cpu_ns":50,"code":1},"#,
        r#"{"event":"mark","at_ns":9,"took_ns":700,"cpu_ns":600,"code":15},"#,
        r#"{"event":"mark","at_ns":9,"took_ns":5000,"cpu_ns":4000,"code":32},"#,
        r#"{"event":"mark","at_ns":9,"took_ns":1,"cpu_ns":1,"code":153},"#,
        r#"{"event":"vm-destroyed","at_ns":9,"took_ns":70},"#,
        r#"{"event":"unaccounted","at_ns":20,"took_ns":11}],"lost_marks":0}"#
    );

    fn profiled(costs: &[&[(Code, u64)]]) -> Vec<profile::Phase> {
        let phase = |costs: &&[(Code, u64)]| profile::Phase {
            name: String::new(),
            took_ns: None,
            costs: costs.iter().map(|&(code, n)| (code, [("f.7".to_owned(), n)].into())).collect(),
        };
        costs.iter().map(phase).collect()
    }

    #[test]
    fn instructions_are_given_to_whose_they_are() {
        let counted = profiled(&[
            &[(Code::Vmm, 100), (Code::LabKernel, 999)],
            &[(Code::Vmm, 30)],
            &[(Code::Vmm, 10), (Code::Firmware, 20)],
            &[(Code::Vmm, 100), (Code::Firmware, 150), (Code::GuestOther, 50)],
            &[(Code::Vmm, 500), (Code::GuestKernel, 3000), (Code::Init, 40)],
            &[],
            &[(Code::Vmm, 60), (Code::LabKernel, 10)],
        ]);
        let found = phases(&timeline::read(SAID).unwrap(), &counted);
        let costs: Vec<_> =
            found.iter().map(|phase| (phase.name.as_str(), phase.costs.clone(), phase.idle)).collect();
        let (jiffy, init, host) = (Whose::Jiffy, Whose::Init, Whose::Host);
        assert_eq!(
            costs,
            [
                ("exec", Costs::from([(jiffy, 100), (host, 200)]), 100),
                ("start", Costs::from([(jiffy, 30), (host, 60)]), 0),
                (
                    "firmware",
                    Costs::from([
                        (jiffy, 110),
                        (Whose::Firmware, 170),
                        (Whose::Guest, 50),
                        (Whose::Exits, 320)
                    ]),
                    110
                ),
                (
                    "kernel",
                    Costs::from([(jiffy, 500), (init, 40), (Whose::Guest, 3000), (Whose::Exits, 460)]),
                    1000
                ),
                ("end", Costs::from([(jiffy, 60)]), 0),
            ]
        );
        assert_eq!(found[0].functions[&jiffy], Functions::from([("f".to_owned(), 100)]));
        assert_eq!(found[0].functions[&host], Functions::from([("f".to_owned(), 999)]));
        assert!(found.last().unwrap().functions.keys().all(|whose| whose.is_ours()));
    }

    #[test]
    fn numbers_that_the_compiler_gives_are_no_part_of_a_name() {
        let names = ["a::b.1192", "a::b", "c.llvm.77", "d2", "<T as e>::f"].map(|name| (name.to_owned(), 1));
        let plain = named(&names.into());
        assert_eq!(
            plain.into_iter().collect::<Vec<_>>(),
            [
                ("<T as e>::f".to_owned(), 1),
                ("a::b".to_owned(), 2),
                ("c".to_owned(), 1),
                ("d2".to_owned(), 1)
            ]
        );
    }
}
