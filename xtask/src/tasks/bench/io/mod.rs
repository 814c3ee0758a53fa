//! `bench io`: what a guest's request takes, in instructions of all levels together and in exits, counted in the nested
//! lab.
//!
//! A [`Part`] is a kind of device, and what its loads are on each [`System`]; each load on each system is a step of one
//! lab. Figures come from the load itself, by subtraction of two loops: under `-icount` a nanosecond of the guest's clock
//! is an instruction, whoever executed it. Exits are those that KVM in the lab has counted when the load says that a
//! loop begins or ends.
//!
//! QEMU's emulation of SVM delivers an interrupt that was injected at VMRUN once more, interrupts off or not, when its
//! instruction budget ends before the guest's next exit. Guests of which that happens in the wrong place spin for ever,
//! the more likely the more interrupts there are. So loads are short, and a step that reaches its deadline is
//! done again with something harmless changed.

mod boot;
mod native;
mod parts;
mod profile;
mod qemu;
mod repeat;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use abi::init_config::Directive;
use agent::Step;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;
use xtask::lab::{self, Lab, Speed, StepReport, Way};
use xtask::tuned::{Recipe, Variant};
use xtask::{built, drivers, initramfs};

use crate::tasks::build;
use crate::tasks::profile::report::Tables;
use parts::{PARTS, Part, Qemu};
use repeat::until_all_end;

/// Virtual time for a step with jiffy's own kernel: several times what it needs.
const DEADLINE_MS: u64 = 2_000;
/// And with Debian's, which takes 1.2 s of it to boot.
const DEBIAN_DEADLINE_MS: u64 = 6_000;
/// Wall time for all steps: virtual time passes ten times slower, or a hundred times on a busy host.
const ALLOWANCE: Duration = Duration::from_secs(3600);
/// What a load says behind its name when there is no figure to be had.
const UNSTEADY: &str = " unsteady";

/// What a request takes, in instructions counted in the nested lab, beside QEMU's microvm and no VM at all
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kinds of devices; boot is what each adds to a boot, native what a request takes of a small guest's on this
    /// host, in wall time
    #[arg(long, value_name = "PART", value_delimiter = ',', default_values_t = parts::NAMES.map(str::to_owned))]
    part: Vec<String>,
    /// The systems
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::BESIDE)]
    system: Vec<System>,
    /// Only loads whose names begin so, such as read:4096
    #[arg(long, value_name = "PREFIX", default_value = "")]
    case: String,
    /// The seed of all that is random in the lab
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Further options of jiffy's device, such as io=uring
    #[arg(long, value_name = "OPTION,…", default_value = "")]
    options: String,
    /// The guest's kernel, for requests of emulated devices; what others measure is mostly with one like Debian's
    #[arg(long, value_enum, default_value_t = Guest::Fast, conflicts_with = "profile")]
    kernel: Guest,
    /// Print one JSON object a part
    #[arg(long)]
    json: bool,
    /// Print instead which functions execute the instructions of jiffy's loads, warm-up and all
    #[arg(long, conflicts_with = "json")]
    profile: bool,
    #[command(flatten)]
    tables: Tables,
}

/// The kernel of the guest that makes the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Guest {
    /// Jiffy's own.
    Fast,
    /// Debian's, with its drivers as modules.
    Debian,
}

/// What does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum System {
    /// The lab itself, without a VM: the limit.
    Limit,
    /// The lab itself without a tap either, for net.
    Loopback,
    /// QEMU's microvm, by virtio-mmio.
    Qemu,
    /// QEMU's microvm, by virtio-pci; its q35 for what microvm has not.
    QemuPci,
    /// Jiffy, by virtio-mmio.
    Mmio,
    /// Jiffy, by virtio-pci.
    Pci,
}

impl System {
    /// Those that are measured where none are named.
    const BESIDE: [Self; 5] = [Self::Limit, Self::Qemu, Self::QemuPci, Self::Mmio, Self::Pci];

    fn is_jiffy(self) -> bool {
        matches!(self, Self::Mmio | Self::Pci)
    }

    /// Its name in tables.
    fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Loopback => "loopback",
            Self::Qemu => "QEMU mmio",
            Self::QemuPci => "QEMU pci",
            Self::Mmio => "mmio",
            Self::Pci => "pci",
        }
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use clap::ValueEnum as _;
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// What one request of a load's takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Figure {
    instructions: u64,
    /// None without a VM.
    exits: Option<f64>,
}

impl Part {
    fn has(&self, system: System) -> bool {
        match system {
            System::Loopback => self.loopback.is_some(),
            System::Qemu => matches!(self.qemu, Qemu::Microvm(_)),
            System::Limit | System::QemuPci | System::Mmio | System::Pci => true,
        }
    }
}

/// By part, load and system.
type Figures = BTreeMap<(&'static str, &'static str, System), Figure>;

/// One load on one system.
#[derive(Clone, Copy)]
struct Job {
    part: &'static Part,
    case: &'static str,
    system: System,
}

/// Measures, and prints a table for each part.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    build::all(ctx)?;
    build::agent(ctx)?;
    build::tools(ctx)?;
    build::wire(ctx)?;
    let mut jobs = Vec::new();
    for name in args.part.iter().filter(|name| ![parts::BOOT, parts::NATIVE].contains(&name.as_str())) {
        let part = (&PARTS as &'static [Part])
            .iter()
            .find(|part| part.name == name)
            .with_context(|| format!("no part {name}"))?;
        let cases = part.cases.iter().map(|case| case.id).filter(|id| id.starts_with(&args.case));
        let systems = args.system.iter().copied();
        let systems: Vec<_> = systems.filter(|&system| part.has(system)).collect();
        jobs.extend(cases.flat_map(|case| systems.iter().map(move |&system| Job { part, case, system })));
    }
    if jobs.is_empty() && !args.case.is_empty() {
        let parts = PARTS.iter().filter(|part| args.part.iter().any(|name| name == part.name));
        let ids = parts.flat_map(|part| part.cases).map(|case| case.id).collect::<Vec<_>>();
        bail!("no load of these parts begins with {:?}: there are {}", args.case, ids.join(", "));
    }
    if args.part.iter().any(|name| name == parts::BOOT) {
        let added = boot::measure(ctx, args.seed)?;
        if args.json {
            println!("{}", serde_json::to_string(&added)?);
        } else {
            boot::print(&added);
        }
    }
    if args.part.iter().any(|name| name == parts::NATIVE) {
        let times = native::measure(ctx, &args.system)?;
        if args.json {
            println!("{}", serde_json::to_string(&times)?);
        } else {
            native::print(&times);
        }
    }
    if jobs.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if args.profile {
        profile::print(ctx, args, &jobs, &args.tables)?;
        return Ok(ExitCode::SUCCESS);
    }
    let figures = measure(ctx, args, jobs)?;
    for part in PARTS.iter().filter(|part| args.part.iter().any(|name| name == part.name)) {
        if args.json {
            report::json(part, &figures)?;
        } else {
            report::print(part, &args.system, &figures);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does all jobs, each load on its system, and finds their figures.
fn measure(ctx: &Ctx, args: &Args, jobs: Vec<Job>) -> Result<Figures> {
    let mut figures = Figures::new();
    let place = tempfile::tempdir()?;
    let lab = lab(ctx, args, place.path())?;
    let take = |job: Job, step: &StepReport| {
        let shown = String::from_utf8_lossy(&step.stdout);
        if shown.lines().any(|line| line.trim().strip_prefix(job.case) == Some(UNSTEADY)) {
            eprintln!("{}: no figure, its loops are not steady", step.name);
            return Ok(());
        }
        let Some(figure) = figure(job.case, &shown) else {
            let said = String::from_utf8_lossy(&step.stderr);
            bail!("no figure: {:?}\n{shown}{said}", step.status);
        };
        figures.insert((job.part.name, job.case, job.system), figure);
        Ok(())
    };
    until_all_end(ctx, &lab, jobs, |job, pad| step(args, job, pad), take)?;
    Ok(figures)
}

/// A lab with all that jobs need.
fn lab(ctx: &Ctx, args: &Args, place: &Path) -> Result<Lab> {
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed: args.seed }));
    (lab.memory_mib, lab.allowance) = (3072, ALLOWANCE);
    lab.modules.extend(["tun", "vhost_vsock"].map(str::to_owned));
    let programs = [("io-load", built::tool(ctx, "io-load")), ("wire", built::wire(ctx))];
    let debian = if args.kernel == Guest::Debian { Some(Kernel::debian(ctx)?) } else { None };
    let modules =
        if debian.is_some() { drivers::of(PARTS.iter().flat_map(|part| part.jiffy)) } else { Vec::new() };
    let mut config: Vec<_> = modules.iter().map(|&name| Directive::Module { name, parameters: "" }).collect();
    config.extend([Directive::Exec("/bin/sh"), Directive::Arg("/load")]);
    let mut cpio = initramfs::with_init(built::INIT.read(ctx)?, &config)?;
    initramfs::add_busybox(&mut cpio, ctx)?;
    let kernel = match &debian {
        Some(kernel) => {
            initramfs::add_modules(&mut cpio, kernel, &modules)?;
            kernel.vmlinux(ctx)?
        }
        None => Recipe::read(ctx, Variant::Fast)?.build(ctx)?.vmlinux(),
    };
    for (name, path) in &programs {
        lab.file(name, path);
        cpio.program(&format!("bin/{name}"), fs::read(path)?);
    }
    // What it is to do, the guest finds on its kernel's command line, behind the last word that is the kernel's.
    cpio.file("load", "line=$(cat /proc/cmdline); eval \"${line##*load=}\"\n");
    let initrd = place.join("initrd");
    fs::write(&initrd, cpio.build()?)?;
    lab.file("jiffy", &built::JIFFY.path(ctx)?).file("initrd", &initrd);
    lab.file("kernel", &kernel);
    if args.system.iter().any(|system| matches!(system, System::Qemu | System::QemuPci)) {
        qemu::add(ctx, &mut lab)?;
    }
    Ok(lab)
}

/// What does a job's load in the lab. `pad` goes where it changes nothing but bytes.
fn words(args: &Args, job: &Job, pad: &str) -> Vec<String> {
    let Job { part, case, system } = *job;
    let cmdline = format!("console=ttyS0 quiet panic=-1 nokaslr cryptomgr.notests pad={pad}");
    let load = part.guest.replace("CASE", case);
    match system {
        System::Limit | System::Loopback => {
            let line = if system == System::Limit { part.limit } else { part.loopback.unwrap_or_default() };
            ["/bin/sh", "-c", &line.replace("CASE", case)].map(str::to_owned).to_vec()
        }
        System::Mmio | System::Pci => {
            let [flag, device] = part.jiffy;
            let value = [device, &args.options].into_iter().filter(|options| !options.is_empty());
            let (transport, value) = (system.to_string(), value.collect::<Vec<_>>().join(","));
            let cmdline = format!("{cmdline} load={load}");
            let device = [flag, value.as_str()].into_iter().filter(|word| !word.is_empty());
            [
                "{jiffy}", "run", "--kernel", "{kernel}", "--initrd", "{initrd}", "--memory", "512M",
                "--kaslr", "off",
            ]
            .into_iter()
            .chain(["--transport", &transport, "--cmdline", &cmdline])
            .chain(device)
            .map(str::to_owned)
            .collect()
        }
        System::Qemu | System::QemuPci => {
            let cmdline = format!("{cmdline} reboot=t load={load}");
            qemu::words(system == System::QemuPci, &cmdline, part.qemu)
        }
    }
}

/// What does a job in the lab.
fn step(args: &Args, job: &Job, pad: &str) -> Step {
    let Job { part, case, system } = *job;
    // Whoever reads along counts the exits while the load pauses.
    let script = format!(
        "mount -t debugfs none /sys/kernel/debug 2>/dev/null; {}\n\"$@\" 2>&1 </dev/null | while read -r line; do \
         echo \"$line\"; case $line in @*) cat /sys/kernel/debug/kvm/exits;; esac; done",
        part.before
    );
    let shell = ["/bin/sh", "-c", &script, "sh"].map(str::to_owned);
    let step =
        lab::step(&format!("{} {case} {system}", part.name), shell.into_iter().chain(words(args, job, pad)));
    let deadline_ms = match args.kernel {
        Guest::Fast => DEADLINE_MS,
        Guest::Debian => DEBIAN_DEADLINE_MS,
    };
    Step { deadline_ms, ..step }
}

/// What is said of a load: `ID NANOSECONDS`, and `@ID` with the exits so far on the next line, of which the last three are
/// those of the loops that count.
fn figure(id: &str, shown: &str) -> Option<Figure> {
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    let instructions =
        lines.iter().find_map(|line| line.strip_prefix(id)?.strip_prefix(' '))?.parse().ok()?;
    let marks = lines.windows(2).filter(|pair| pair[0].strip_prefix('@') == Some(id));
    let exits: Vec<f64> = marks.map(|pair| pair[1].parse().ok()).collect::<Option<_>>()?;
    let count: f64 = id.rsplit_once(':')?.1.parse().ok()?;
    let [.., before, between, after] = exits[..] else { return None };
    let exits = ((after - between) - (between - before)) / count;
    Some(Figure { instructions, exits: (after > 0.0).then_some(exits) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_of_what_is_said() {
        let said = "hello\r\n@read:8:10\r\n9\r\n@read:8:10\r\n100\r\n@read:8:10\n130\n@read:8:10\n190\nread:8:10 4711\r\n@read:8:100\n1";
        assert_eq!(figure("read:8:10", said), Some(Figure { instructions: 4711, exits: Some(3.0) }));
        assert_eq!(figure("read:8:100", said), None);
        let alone = said.replace("100", "0").replace("130", "0").replace("190", "0");
        assert_eq!(figure("read:8:10", &alone), Some(Figure { instructions: 4711, exits: None }));
    }
}
