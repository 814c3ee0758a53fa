//! `profile`: what each function of a boot costs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use abi::init_config::Directive;
use anyhow::{Context, Result, ensure};
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;
use xtask::lab::qemu::Machine;
use xtask::lab::{self, Lab, Speed, Way, emulator};
use xtask::profile::{self, Code, Profile, Programs, Start, Symbols};
use xtask::tuned::{Recipe, Variant};
use xtask::{built, initramfs};

use super::build;

pub mod report;

/// Count what each function of a boot executes, in the nested lab: jiffy's, its host's, the guest kernel's, init's
///
/// Counts are exact: two runs give the same. They say nothing of caches, and nothing of what an exit costs a real
/// processor. Linux is started by its 64-bit protocol, without randomisation.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernel: jiffy's own, Debian's, or a file: a vmlinux, or another guest with a PVH entry; with its symbols
    #[arg(long, value_name = "fast|full|debian|FILE", default_value = "fast")]
    kernel: PathBuf,
    /// Start the kernel by Jiffy's firmware
    #[arg(long, conflicts_with = "qemu")]
    firmware: bool,
    /// The guest's RAM, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    memory: u32,
    /// The seed of all that is random in the lab; a run that stalls is worth repeating with another
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Boot under QEMU alone, on its microvm: the guest's own instructions, from its kernel's first
    #[arg(long)]
    qemu: bool,
    #[command(flatten)]
    tables: report::Tables,
    /// Write the profile to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the functions that jiffy executes before its guest does to this file, in the order of their phases: in
    /// this order they are linked (vmm/start-order.txt)
    #[arg(long, value_name = "FILE")]
    order: Option<PathBuf>,
    /// Run nothing, but say what changed between two profiles that --json has written
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    diff: Option<Vec<PathBuf>>,
    /// More arguments for `jiffy run`
    #[arg(last = true)]
    jiffy: Vec<String>,
}

/// Without ACPI, as QEMU's microvm has no timer then by which Linux would calibrate its clock; a reset ends it.
const MICROVM: &str = "microvm,acpi=off";
/// Waiting for timers would be counted, and only emulation has those waits.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t no_timer_check nolapic_timer";

/// Boots once, and shows where the instructions went.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    if let Some([before, after]) = args.diff.as_deref() {
        print!("{}", report::diff(&read(before)?, &read(after)?, &args.tables));
        return Ok(ExitCode::SUCCESS);
    }
    build::all(ctx)?;
    build::agent(ctx)?;
    let profile = profile(ctx, args)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string(&profile)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.order {
        fs::write(path, order(&profile)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", report::text(&profile, &args.tables));
    Ok(ExitCode::SUCCESS)
}

/// jiffy's functions up to the guest's first mark, each in the first phase that executes it.
fn order(profile: &Profile) -> String {
    let own =
        profile.phases.iter().map(|phase| phase.costs.get(&Code::Vmm).into_iter().flat_map(BTreeMap::keys));
    let end = profile.phases.iter().position(|phase| phase.name == "first-run").map_or(0, |last| last + 2);
    let mut seen = BTreeSet::new();
    let functions = own.take(end).flatten().filter(|function| seen.insert(*function));
    functions.flat_map(|function| [function, "\n"]).collect()
}

fn read(path: &Path) -> Result<Profile> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a profile", path.display()))
}

/// The ELF file of the kernel that is `wanted` (`fast`, `full`, `debian`, or a file), and its symbols.
pub fn kernel(ctx: &Ctx, wanted: &Path) -> Result<(PathBuf, Symbols)> {
    if wanted == Path::new("debian") {
        return Ok((Kernel::debian(ctx)?.vmlinux(ctx)?, Symbols::debian(ctx)?));
    }
    let path = match wanted.to_str().and_then(Variant::named) {
        Some(variant) => Recipe::read(ctx, variant)?.build(ctx)?.vmlinux(),
        None => wanted.to_owned(),
    };
    let symbols = Symbols::of(&path)?;
    Ok((path, symbols))
}

fn profile(ctx: &Ctx, args: &Args) -> Result<Profile> {
    let (kernel, symbols) = kernel(ctx, &args.kernel)?;
    let is_linux = symbols.address("start_kernel").is_some();
    let programs = Programs::built(ctx)?;
    let place = tempfile::tempdir()?;
    let initrd = place.path().join("initrd");
    let mut config = vec![Directive::Hostname("guest"), Directive::Exec("/init"), Directive::Arg("greet")];
    if args.qemu {
        config.push(Directive::PortsAlways);
    }
    fs::write(&initrd, initramfs::with_init(built::INIT.read(ctx)?, &config)?.build()?)?;
    let _step = ctx.step("Booting, and counting");
    if args.qemu {
        ensure!(args.jiffy.is_empty(), "arguments for jiffy mean nothing to QEMU: {}", args.jiffy.join(" "));
        let mut machine = Machine::new(MICROVM, kernel, initrd, CMDLINE);
        machine.memory_mib = args.memory;
        machine.speed = Speed::Exact { seed: args.seed };
        return profile::alone(ctx, &machine, &symbols, &programs, args.tables.exits);
    }
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed: args.seed }));
    lab.memory_mib = 1024 + args.memory;
    lab.file("jiffy", &built::JIFFY.path(ctx)?).file("initrd", &initrd).file("kernel", &kernel);
    let mut how = if is_linux { "--initrd {initrd} --protocol linux64" } else { "--protocol pvh" }.to_owned();
    if args.firmware {
        lab.file("rom", &built::FIRMWARE.path(ctx)?);
        how.push_str(" --firmware {rom}");
    } else {
        how.push_str(" --kaslr off");
    }
    let line = format!(
        "{{jiffy}} run --kernel {{kernel}} {how} --cpus 1 --memory {}M --timeline json --timeline-origin {{origin}}",
        args.memory
    );
    let words = line.split_whitespace().map(str::to_owned).chain(args.jiffy.iter().cloned());
    let start = Start { step: lab::step("boot", words), kernel: Some(&symbols) };
    let (report, profiles) = profile::run(ctx, &lab, &[start], &programs)?;
    report.steps.iter().filter_map(emulator::crash).for_each(|crash| eprintln!("{crash}"));
    profiles.into_iter().next().context("no profile")
}
