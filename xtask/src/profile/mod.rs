//! What each function of a boot costs, in instructions: counted exactly, by a plugin of QEMU's, in the nested lab or
//! under QEMU alone. Two runs give the same counts. See `docs/measuring.md`.

use std::collections::BTreeMap;

use agent::Step;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::lab::{Lab, StepReport};
use crate::{built, lab};

mod diff;
mod initcalls;
mod lab_kernel;
mod place;
mod plugin;
mod symbols;
mod timeline;

pub use diff::{Grown, grown};
pub use symbols::Symbols;

use place::Programs;
use plugin::{Plugin, Points, Segment, World};

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// `jiffy`.
    Vmm,
    /// The kernel of the lab, KVM included: the host's, as `jiffy` sees it.
    LabKernel,
    /// Other programs in the lab: its agent, its init.
    LabProgram,
    /// The guest's kernel.
    GuestKernel,
    /// The guest's init.
    Init,
    /// All else in the guest.
    GuestOther,
}

impl Code {
    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmm => "jiffy",
            Self::LabKernel => "lab kernel",
            Self::LabProgram => "lab programs",
            Self::GuestKernel => "guest kernel",
            Self::Init => "init",
            Self::GuestOther => "other in guest",
        }
    }
}

/// Instructions by function.
pub type Functions = BTreeMap<String, u64>;

/// From one event of the timeline to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// The event that it ends with, by its name in the timeline.
    pub name: String,
    /// How long it took, in nanoseconds of virtual time, where the timeline says so: one for each instruction, and
    /// waits.
    pub took_ns: Option<u64>,
    /// What was executed.
    pub costs: BTreeMap<Code, Functions>,
}

impl Phase {
    /// All instructions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.costs.values().flat_map(BTreeMap::values).sum()
    }
}

/// Exits of one kind that one function of the guest made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exit {
    /// The phase's name.
    pub phase: String,
    /// The instruction that made it (`in`, `out`, `cpuid`, `rdmsr`, `wrmsr`, `hlt`, …), `page-fault` where KVM gave the guest
    /// memory, `mmio` where it emulated an access, or `interrupt`.
    pub kind: String,
    /// The guest's function.
    pub function: String,
    /// How many.
    pub count: u64,
    /// Instructions that the lab's kernel executed for them, from leaving the guest to entering it again.
    pub kernel: u64,
    /// Instructions that programs of the lab executed for them.
    pub user: u64,
}

/// A function that the guest's kernel calls at boot, with all that it calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initcall {
    /// Its function.
    pub name: String,
    /// Instructions of the guest; of other threads as well, while it waited.
    pub guest: u64,
    /// Instructions of the lab meanwhile.
    pub lab: u64,
}

/// What a boot cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Which boot.
    pub name: String,
    /// In their order.
    pub phases: Vec<Phase>,
    /// Sorted.
    pub exits: Vec<Exit>,
    /// In the order of their calls.
    pub initcalls: Vec<Initcall>,
}

impl Profile {
    /// The functions of some code, by phase.
    #[must_use]
    pub fn functions(&self, of: &[Code]) -> BTreeMap<String, Functions> {
        let mut all: BTreeMap<String, Functions> = BTreeMap::new();
        for phase in &self.phases {
            let functions = all.entry(phase.name.clone()).or_default();
            for (function, count) in of.iter().filter_map(|code| phase.costs.get(code)).flatten() {
                *functions.entry(function.clone()).or_default() += count;
            }
        }
        all
    }
}

impl Symbols {
    /// Of Debian's kernel, which has none in its files: the lab runs it, and is asked.
    pub fn debian(ctx: &Ctx) -> Result<Self> {
        let vmlinux = std::fs::read(Kernel::debian(ctx)?.vmlinux(ctx)?)?;
        Self::of_kernel(&vmlinux, &lab_kernel::kallsyms(ctx, &[])?)
    }
}

/// Runs `steps` in `lab`, which is nested and exact, and profiles each. They start `jiffy` with `--timeline json
/// --timeline-origin {origin}`, and the guest's kernel, of which `kernel` are the symbols, with `--kaslr off`. What is
/// executed is what cargo has built last.
pub fn run(ctx: &Ctx, lab: &Lab, steps: &[Step], kernel: Option<&Symbols>) -> Result<Vec<Profile>> {
    let kallsyms = lab_kernel::kallsyms(ctx, &lab.modules)?;
    let lab_kernel = Symbols::of_kallsyms(&kallsyms);
    let vmm = Symbols::of(&built::JIFFY.symbols(ctx)?)?;
    let init = Symbols::of(&built::INIT.symbols(ctx)?)?;
    let agent = Symbols::of(&built::agent(ctx))?;
    let programs = Programs { lab_kernel: &lab_kernel, vmm: &vmm, agent: &agent, init: &init, kernel };

    let mut points = Points::default();
    cut(&mut points, &agent, "agent::run::monotonic_ns")?;
    cut(&mut points, &vmm, "<vmm::timeline::clock::HostClock as vmm::timeline::clock::Clock>::stamp")?;
    for (function, kind) in [("kvm_mmu_page_fault", "page-fault"), ("x86_emulate_instruction", "mmio")] {
        let address = lab_kernel.range(&format!("{function} [kvm]")).map(|(start, _)| start);
        points.kind(address.with_context(|| format!("the lab's kernel has no {function}"))?, kind);
    }
    let initcalls = kernel.map(initcalls::Table::of).unwrap_or_default();
    initcalls.add_to(&mut points);

    let plugin = Plugin::build(ctx, &points)?;
    let mut lab = lab.clone();
    lab.emulator_args.extend(plugin.args(false));
    let report = lab.run(ctx, steps)?;
    let segments = plugin.counts()?;
    programs.check_kernel(&segments)?;
    let by_step = by_step(&segments, steps.len())?;
    let profiles = report.steps.iter().zip(by_step);
    profiles.map(|(step, segments)| profile(&programs, &initcalls, step, segments)).collect()
}

/// The cuts that [`run`] makes.
const AGENT: usize = 0;
const VMM: usize = 1;

fn cut(points: &mut Points, program: &Symbols, function: &str) -> Result<()> {
    let missing = || format!("{function} is not in the program: build it anew");
    let (address, _) = program.range(function).with_context(missing)?;
    points.cut(World::Lab, address, program.bytes(address).with_context(missing)?);
    Ok(())
}

/// The agent asks for the time when it begins, and when each step begins and ends.
fn by_step(segments: &[Segment], steps: usize) -> Result<Vec<&[Segment]>> {
    let cuts: Vec<usize> =
        segments.iter().enumerate().filter(|(_, s)| s.cut == AGENT).map(|(index, _)| index).collect();
    ensure!(cuts.len() == 1 + 2 * steps, "the lab's agent was seen {} times in {steps} steps", cuts.len());
    Ok(cuts[1..].chunks_exact(2).map(|pair| &segments[pair[0]..pair[1]]).collect())
}

fn profile(
    programs: &Programs<'_>,
    initcalls: &initcalls::Table,
    step: &StepReport,
    segments: &[Segment],
) -> Result<Profile> {
    let said = String::from_utf8_lossy(&step.stderr);
    let Some(rows) = timeline::rows(&said) else {
        bail!("step {:?} said no timeline, but: {}", step.name, lab::last_lines(said.as_bytes()));
    };
    // The first segment ends with jiffy's first stamp; all stamps but that are events, as is the first if the parent
    // gave a stamp; what comes after the last one is the end.
    ensure!(
        segments.iter().filter(|segment| segment.cut == VMM).count() == rows.len(),
        "{} events in the timeline, and {} cuts",
        rows.len(),
        segments.len() - 1
    );
    let names = rows.iter().map(|row| (row.name.clone(), Some(row.took_ns)));
    let names = names.chain([("reaped".to_owned(), None)]);
    let mut profile =
        Profile { name: step.name.clone(), phases: Vec::new(), exits: Vec::new(), initcalls: Vec::new() };
    for ((name, took_ns), segment) in names.zip(segments) {
        profile.exits.extend(exits(programs, &name, segment));
        profile.phases.push(Phase { name, took_ns, costs: programs.sum(&segment.runs) });
    }
    profile.initcalls = initcalls.calls(segments);
    Ok(profile)
}

fn exits(programs: &Programs<'_>, phase: &str, segment: &Segment) -> Vec<Exit> {
    let mut sums: BTreeMap<(String, String), [u64; 3]> = BTreeMap::new();
    for exit in segment.exits.iter().filter(|exit| exit.at.world == World::Guest) {
        let (_, function) = programs.place(&exit.at);
        let sum = sums.entry((exit.kind.clone(), function.to_owned())).or_default();
        for (sum, add) in sum.iter_mut().zip([exit.count, exit.kernel, exit.user]) {
            *sum += add;
        }
    }
    let exit = |((kind, function), [count, kernel, user]): (_, [u64; 3])| Exit {
        phase: phase.to_owned(),
        kind,
        function,
        count,
        kernel,
        user,
    };
    sums.into_iter().map(exit).collect()
}
