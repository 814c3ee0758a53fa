//! Boots in the nested lab.

use std::fmt::Display;
use std::ptr;

use agent::{Status, Step};
use anyhow::{Context, Result, bail, ensure};

use super::initcalls::Table;
use super::place::Everything;
use super::plugin::{Plugin, Points, Segment, World};
use super::{Phase, Profile, Programs, Symbols, exits, lab_kernel};
use crate::ctx::Ctx;
use crate::lab::emulator::crash;
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

/// A start that came to no end before its deadline, or, in [`first_to_end`], to a bad one; started otherwise, or with
/// another seed, it may end well.
#[derive(Debug, thiserror::Error)]
#[error("step {0:?}: {1}")]
pub struct Stuck(String, String);

/// Runs `starts` in `lab`, which is nested and exact, and profiles each; what they start are stripped or whole forms of
/// `programs`. A phase has all that was executed in it, whoever it was for. Initcalls are told of where all have one kernel.
/// A guest that crashes is profiled up to there.
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
    if let Some(late) = report.steps.iter().find(|step| step.status == Status::TimedOut) {
        return Err(Stuck(late.name.clone(), "it did not end in time".to_owned()).into());
    }
    let segments = plugin.counts()?;
    let by_step = by_step(&segments, steps.len())?;
    let profiles = starts.iter().zip(&report.steps).zip(by_step).map(|((start, step), segments)| {
        let everything = Everything { kernel: start.kernel, ..everything };
        let profiled = everything.check_kernel(segments);
        let profiled = profiled.and_then(|()| profile(&everything, &initcalls, step, segments));
        // Of a guest that has crashed, there may be no timeline.
        profiled.map_err(|error| crash(step).map_or(error, |why| Stuck(step.name.clone(), why).into()))
    });
    let profiles = profiles.collect::<Result<_>>()?;
    Ok((report, profiles))
}

/// As [`run`] in the first of these ways, such as seeds, in which nothing is stuck, and no guest crashes; which way that
/// was. Those before it are told of, as `what` they are.
pub fn first_to_end<W: Display>(
    what: &str,
    ways: impl IntoIterator<Item = W>,
    mut run: impl FnMut(&W) -> Result<(Report, Vec<Profile>)>,
) -> Result<(W, Report, Vec<Profile>)> {
    for way in ways {
        let stuck = match run(&way) {
            Ok((report, profiles)) => {
                let crash = |step: &StepReport| Some(Stuck(step.name.clone(), crash(step)?));
                let Some(stuck) = report.steps.iter().find_map(crash) else {
                    return Ok((way, report, profiles));
                };
                stuck.into()
            }
            Err(error) if error.is::<Stuck>() => error,
            Err(error) => return Err(error),
        };
        eprintln!("{what} {way}: {stuck}");
    }
    bail!("none of these ended well")
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
    use std::time::Duration;

    use anyhow::anyhow;

    use super::*;

    fn ended(stderr: &str) -> (Report, Vec<Profile>) {
        let step = StepReport {
            name: "boot".to_owned(),
            status: Status::Exited(0),
            stdout: Vec::new(),
            stderr: stderr.into(),
            files: Default::default(),
            started_ns: 0,
            ended_ns: 0,
            cpu: Duration::ZERO,
        };
        let (ready_ns, wall, console) = (0, Duration::ZERO, String::new());
        (Report { steps: vec![step], ready_ns, wall, console }, Vec::new())
    }

    #[test]
    fn what_is_stuck_or_crashes_is_run_in_another_way() {
        let one = |way: &u32| match way {
            1 => Err(Stuck("boot".to_owned(), "it did not end in time".to_owned()).into()),
            2 => Ok(ended("jiffy: the guest's kernel panicked\n")),
            3 => Ok(ended("")),
            _ => Err(anyhow!("no lab")),
        };
        assert_eq!(first_to_end("seed", 1..9, one).unwrap().0, 3);
        assert_eq!(first_to_end("seed", 1..3, one).err().unwrap().to_string(), "none of these ended well");
        assert_eq!(first_to_end("seed", [4, 3], one).err().unwrap().to_string(), "no lab");
    }
}
