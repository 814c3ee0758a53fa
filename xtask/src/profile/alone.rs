//! Boots under QEMU alone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::initcalls::Table;
use super::place::Everything;
use super::plugin::{Clock, Plugin, Points, Reached, Segment, World};
use super::{Phase, Profile, Programs, Symbols, exits};
use crate::ctx::Ctx;
use crate::lab::Speed;
use crate::lab::qemu::{Input, Machine};

/// More than any boot needs, on a busy host.
const DEADLINE: Duration = Duration::from_secs(300);

/// Boots `machine`, whose kernel is `kernel`'s, an ELF file, and counts from its first instruction to that of
/// `jiffy-init`, if it starts one, and on to the end. With `device_io`, accesses to devices' memory are among the exits, at a price in time.
pub fn alone(
    ctx: &Ctx,
    machine: &Machine,
    kernel: &Symbols,
    programs: &Programs,
    device_io: bool,
) -> Result<Profile> {
    ensure!(matches!(machine.speed, Speed::Exact { .. }), "only what repeats is counted");
    let Programs { init, .. } = programs;
    let nothing = Symbols::default();
    let everything = Everything { programs, kernel: Some(kernel), lab_kernel: &nothing, agent: &nothing };
    let mut points = Points::default();
    let entry = kernel.pvh_entry.context("the kernel has no PVH entry, by which QEMU would start it")?;
    points.cut(World::Lab, entry, &[]);
    let start = init.address("_start").context("init has no _start")?;
    points.cut(World::Lab, start, init.bytes(start).context("init has no code")?);
    let initcalls = Table::of(kernel);
    initcalls.add_to(&mut points, World::Lab);

    let plugin = Plugin::build(ctx, &points)?;
    let mut machine = machine.clone();
    machine.args.extend(plugin.args(device_io));
    let ended = machine.boot(ctx, Input::None, DEADLINE, |_| true)?;
    let segments: Vec<Segment> = plugin.counts()?.into_iter().map(as_guest).collect();
    let console = String::from_utf8_lossy(&ended.console);
    ensure!(!segments.is_empty(), "the kernel was not started; the console said:\n{console}");
    everything.check_kernel(&segments)?;
    let mut profile = Profile {
        name: machine.name,
        phases: Vec::new(),
        exits: Vec::new(),
        initcalls: initcalls.calls(&segments),
    };
    // Init starts more than once, when it is the workload as well.
    let (kernel, rest) = segments.split_at(usize::from(segments.len() > 1));
    for (name, segments) in [("init's first instruction", kernel), ("the end", rest)] {
        if segments.is_empty() {
            continue;
        }
        let runs = segments.iter().flat_map(|segment| &segment.runs);
        profile.exits.extend(exits(&everything, name, segments.iter().flat_map(|segment| &segment.exits)));
        profile.phases.push(Phase { name: name.to_owned(), took_ns: None, costs: everything.sum(runs) });
    }
    Ok(profile)
}

/// QEMU's own machine is the guest, where there is no lab.
fn as_guest(mut segment: Segment) -> Segment {
    let clock = |Clock { lab_kernel, lab_user, guest }| Clock {
        lab_kernel: 0,
        lab_user: 0,
        guest: lab_kernel + lab_user + guest,
    };
    segment.start = clock(segment.start);
    for reached in &mut segment.reached {
        let (Reached::Mark(_, at) | Reached::Inside(at)) = reached;
        *at = clock(*at);
    }
    let runs = segment.runs.iter_mut().map(|run| &mut run.at);
    for at in runs.chain(segment.exits.iter_mut().map(|exit| &mut exit.at)) {
        at.world = World::Guest;
    }
    segment
}
