//! Boots in the nested lab.

use std::ptr;

use agent::{Status, Step};
use anyhow::{Context, Result, ensure};

use super::initcalls::Table;
use super::place::Everything;
use super::plugin::{Plugin, Points, Segment, World};
use super::{Phase, Profile, Programs, Symbols, exits, lab_kernel};
use crate::ctx::Ctx;
use crate::lab::{Lab, Report, StepReport};
use crate::{built, timeline};

/// A step to be profiled.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// It starts `jiffy` with `--timeline json --timeline-origin {origin}`, and the guest's kernel with `--kaslr off`. One
    /// that ends well and says nothing of a timeline prepares others; it has no phases.
    pub step: Step,
    /// The guest's kernel; without it, all of that kernel's code is one.
    pub kernel: Option<&'a Symbols>,
}

/// A start that came to no end before its deadline, or to a bad one; started otherwise, or with another seed, it may.
#[derive(Debug, thiserror::Error)]
#[error("step {0:?}: {1}")]
pub struct Stuck(String, String);

/// What `jiffy` says when its guest has crashed, which an interrupt that QEMU delivers twice can do as well.
#[must_use]
pub fn crash(step: &StepReport) -> Option<String> {
    let said = [&step.stdout, &step.stderr].map(|said| String::from_utf8_lossy(said));
    let crash = |line: &&str| {
        line.starts_with("jiffy: the guest's kernel panicked") || line.starts_with("jiffy: triple fault")
    };
    said.iter().flat_map(|said| said.lines()).find(crash).map(str::to_owned)
}

/// Runs `starts` in `lab`, which is nested and exact, and profiles each; what they start are stripped or whole forms of
/// `programs`. A phase has all that was executed in it, whoever it was for. Initcalls are told of where all have one kernel.
pub fn run(
    ctx: &Ctx,
    lab: &Lab,
    starts: &[Start<'_>],
    programs: &Programs,
) -> Result<(Report, Vec<Profile>)> {
    let lab_kernel = Symbols::of_kallsyms(&lab_kernel::kallsyms(ctx, &lab.modules)?);
    let agent = Symbols::of(&built::agent(ctx))?;
    let everything = Everything { programs, kernel: None, lab_kernel: &lab_kernel, agent: &agent };

    let mut points = Points::default();
    let (address, bytes) = start(&agent, "agent::run::monotonic_ns")?;
    points.step(World::Lab, address, bytes);
    let stamp = "<vmm::timeline::clock::HostClock as vmm::timeline::clock::Clock>::stamp";
    let (address, bytes) = start(&programs.vmm, stamp)?;
    points.cut(World::Lab, address, bytes);
    for (function, kind) in [("kvm_mmu_page_fault", "page-fault"), ("x86_emulate_instruction", "mmio")] {
        let address = lab_kernel.range(&format!("{function} [kvm]")).map(|(start, _)| start);
        points.kind(address.with_context(|| format!("the lab's kernel has no {function}"))?, kind);
    }
    let kernel = starts.first().and_then(|first| first.kernel);
    let one_kernel = kernel.filter(|one| starts.iter().all(|s| s.kernel.is_some_and(|k| ptr::eq(k, *one))));
    let initcalls = one_kernel.map(Table::of).unwrap_or_default();
    initcalls.add_to(&mut points, World::Guest);

    let plugin = Plugin::build(ctx, &points)?;
    let mut lab = lab.clone();
    lab.emulator_args.extend(plugin.args(false));
    let steps: Vec<Step> = starts.iter().map(|start| start.step.clone()).collect();
    let report = lab.run(ctx, &steps)?;
    for step in &report.steps {
        let late = (step.status == Status::TimedOut).then(|| "it did not end in time".to_owned());
        if let Some(why) = late.or_else(|| crash(step)) {
            return Err(Stuck(step.name.clone(), why).into());
        }
    }
    let segments = plugin.counts()?;
    let by_step = by_step(&segments, steps.len())?;
    let profiles = starts.iter().zip(&report.steps).zip(by_step).map(|((start, step), segments)| {
        let everything = Everything { kernel: start.kernel, ..everything };
        everything.check_kernel(segments)?;
        profile(&everything, &initcalls, step, segments)
    });
    let profiles = profiles.collect::<Result<_>>()?;
    Ok((report, profiles))
}

/// The cuts that [`run`] makes.
const AGENT: usize = 0;
const VMM: usize = 1;

/// Where a function of a program begins, and the bytes that are there.
fn start<'a>(program: &'a Symbols, function: &str) -> Result<(u64, &'a [u8])> {
    let start = program.range(function).and_then(|(start, _)| Some((start, program.bytes(start)?)));
    start.with_context(|| format!("{function} is not in the program: build it anew"))
}

/// The agent asks for the time when it begins, and when each step begins and ends.
fn by_step(segments: &[Segment], steps: usize) -> Result<Vec<&[Segment]>> {
    let cuts: Vec<usize> =
        segments.iter().enumerate().filter(|(_, s)| s.cut == AGENT).map(|(index, _)| index).collect();
    ensure!(cuts.len() == 1 + 2 * steps, "the lab's agent was seen {} times in {steps} steps", cuts.len());
    Ok(cuts[1..].chunks_exact(2).map(|pair| &segments[pair[0]..pair[1]]).collect())
}

fn profile(
    everything: &Everything<'_>,
    initcalls: &Table,
    step: &StepReport,
    segments: &[Segment],
) -> Result<Profile> {
    let said = String::from_utf8_lossy(&step.stderr);
    let mut profile =
        Profile { name: step.name.clone(), phases: Vec::new(), exits: Vec::new(), initcalls: Vec::new() };
    if step.status == Status::Exited(0) && !said.contains('{') {
        return Ok(profile);
    }
    let rows = timeline::read(&said).with_context(|| format!("step {:?}", step.name))?;
    // The first segment ends with jiffy's first stamp; all stamps but that are events, as is the first if the parent
    // gave a stamp; what comes after the last one is the end.
    ensure!(
        segments.iter().filter(|segment| segment.cut == VMM).count() == rows.len(),
        "{} events in the timeline, and {} cuts",
        rows.len(),
        segments.len() - 1
    );
    let names = rows.iter().map(|row| (row.name(), Some(row.took_ns)));
    let names = names.chain([("reaped".to_owned(), None)]);
    for ((name, took_ns), segment) in names.zip(segments) {
        profile.exits.extend(exits(everything, &name, &segment.exits));
        profile.phases.push(Phase { name, took_ns, costs: everything.sum(&segment.runs) });
    }
    profile.initcalls = initcalls.calls(segments);
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_are_told_from_other_ends() {
        let step = |stdout: &str, stderr: &str| StepReport {
            name: "boot".to_owned(),
            status: Status::Exited(121),
            stdout: stdout.as_bytes().to_vec(),
            stderr: stderr.as_bytes().to_vec(),
            files: Default::default(),
            started_ns: 0,
            ended_ns: 0,
            cpu: Default::default(),
        };
        let panic = "jiffy: the guest's kernel panicked";
        assert_eq!(crash(&step("hello", &format!("a warning\n{panic}\n"))).as_deref(), Some(panic));
        let fault = "jiffy: triple fault of vCPU 0: at 0x1000";
        assert_eq!(crash(&step(fault, "")).as_deref(), Some(fault));
        assert_eq!(crash(&step("the guest's kernel panicked", "jiffy: powered off")), None);
    }
}
