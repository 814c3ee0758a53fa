//! Phases of a start, and whose instructions they are made of.

use std::collections::BTreeMap;
use std::fmt;

use abi::timeline::Mark;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::profile::{self, Code, Functions};

/// Whose instructions. What is ours comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// `jiffy`'s own, on its way to the guest.
    Jiffy,
    /// `jiffy-init`'s own.
    Init,
    /// The host kernel's, on behalf of `jiffy` on that way.
    Host,
    /// The guest kernel's.
    Guest,
    /// For exits of the guest: the host's kernel, KVM, memory that the guest touches first, and `jiffy` as it serves them.
    Exits,
}

impl Whose {
    /// All, in their order.
    pub const ALL: [Self; 5] = [Self::Jiffy, Self::Init, Self::Host, Self::Guest, Self::Exits];

    /// Whether it is this project's own code, whose counts repeat to the instruction whatever happens beside it.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Jiffy | Self::Init)
    }

    /// What the profiler calls such code, where its functions are known.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Jiffy => Some(Code::Vmm),
            Self::Init => Some(Code::Init),
            Self::Host => Some(Code::LabKernel),
            Self::Guest => Some(Code::GuestKernel),
            Self::Exits => None,
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jiffy => "jiffy",
            Self::Init => "init",
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
    /// Functions of ours.
    pub functions: BTreeMap<Whose, Functions>,
}

impl Phase {
    /// All instructions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.costs.values().sum()
    }
}

/// What `jiffy` says with `--timeline json`, as much of it as is used here.
#[derive(Deserialize)]
struct Timeline {
    rows: Vec<Row>,
}

/// A row of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Row {
    event: String,
    took_ns: u64,
    cpu_ns: Option<u64>,
    code: Option<u8>,
}

/// The rows of a timeline among what `jiffy` said on standard error; all but the last, which belongs to no event.
pub(super) fn rows(said: &str) -> Result<Vec<Row>> {
    let line = said.lines().find(|line| line.starts_with('{')).context("no timeline")?;
    let Timeline { mut rows } = serde_json::from_str(line).context("no timeline of ours")?;
    ensure!(rows.pop().is_some(), "an empty timeline");
    Ok(rows)
}

impl Row {
    /// The phase that ends with it, if it is one that is watched, and whether the guest runs in it.
    fn phase(&self) -> Option<(&'static str, bool)> {
        Some(match (self.event.as_str(), self.code.map(Mark)) {
            ("exec", _) => ("exec", false),
            ("config-read", _) => ("config", false),
            ("kvm-opened", _) => ("open", false),
            ("memory-mapped", _) => ("memory", false),
            ("kernel-loaded", _) => ("load", false),
            ("vcpus-ready", _) => ("build", false),
            ("first-run", _) => ("start", false),
            ("mark", Some(Mark::INIT_START)) => ("kernel", true),
            ("mark", Some(Mark::WORKLOAD_START)) => ("init", true),
            ("mark", Some(Mark::WORKLOAD_END)) => ("workload", true),
            ("mark", Some(Mark::USER)) => ("mark", false),
            ("guest-stopped", _) => ("power-off", true),
            _ => return None,
        })
    }

    /// Instructions on the way from the row before to this one.
    fn busy(&self) -> u64 {
        match self.event.as_str() {
            // Two threads one after the other, neither of which waits: the one that makes the vCPU's, and that.
            "first-run" => self.took_ns,
            _ => self.cpu_ns.unwrap_or(self.took_ns),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, took_ns, cpu_ns, code } = self;
        write!(f, "{event}")?;
        code.map_or(Ok(()), |code| write!(f, " {code:#x}"))?;
        write!(f, ": {took_ns} ns")?;
        cpu_ns.map_or(Ok(()), |cpu| write!(f, ", working for {cpu}"))
    }
}

/// Makes phases of a run's timeline, and of what the profiler counted in a run that was the same.
pub(super) fn phases(rows: &[Row], profiled: &[profile::Phase]) -> Vec<Phase> {
    let both = rows.iter().zip(profiled);
    both.filter_map(|(row, profiled)| {
        let (name, guest_runs) = row.phase()?;
        let sum =
            |code: Code| profiled.costs.get(&code).map_or(0, |functions| functions.values().sum::<u64>());
        let [jiffy, init] = [sum(Code::Vmm), sum(Code::Init)];
        let parts = if guest_runs {
            let guest = sum(Code::GuestKernel) + sum(Code::GuestOther);
            let exits = row.busy().saturating_sub(jiffy + guest + init);
            [(Whose::Jiffy, jiffy), (Whose::Init, init), (Whose::Guest, guest), (Whose::Exits, exits)]
                .to_vec()
        } else {
            [(Whose::Jiffy, jiffy), (Whose::Host, row.busy().saturating_sub(jiffy))].to_vec()
        };
        let costs: Costs = parts.into_iter().filter(|(_, count)| *count > 0).collect();
        let functions = costs
            .keys()
            .filter(|whose| whose.is_ours())
            .filter_map(|&whose| Some((whose, profiled.costs.get(&whose.code()?)?.clone())));
        let idle = row.took_ns.saturating_sub(row.busy());
        Some(Phase { name: name.to_owned(), idle, functions: functions.collect(), costs })
    })
    .collect()
}
