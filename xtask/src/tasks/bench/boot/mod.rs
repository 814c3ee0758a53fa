//! `bench boot`: what a Linux guest's boot takes, in instructions counted in the nested lab: by phase, and by symbol.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use abi::init_config::Directive;
use abi::timeline::Mark;
use agent::{Status, Step};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::lab::{self, Lab, Speed, StepReport, Way};
use xtask::profile::{self, Code, Functions, Profile, Programs, Start};
use xtask::{built, initramfs, timeline};

use crate::tasks::{build, profile::kernel as find_kernel};

mod report;

/// What a boot may take in the lab's time, in which Debian's kernel takes 1.3 s. One that is stuck takes a minute for it.
const DEADLINE_MS: u64 = 3000;
/// Wall time for all boots beyond their deadlines.
const ALLOWANCE: Duration = Duration::from_secs(900);
/// How often all is done again, with the next seed, when a boot is stuck.
const REPEATS: u64 = 3;

/// From exec to init, for jiffy's own kernel and Debian's, in instructions counted in the nested lab
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernels: jiffy's own, Debian's, or files: a vmlinux with its symbols
    #[arg(
        long,
        value_name = "fast|full|debian|FILE",
        value_delimiter = ',',
        default_values = ["fast", "debian"]
    )]
    kernel: Vec<PathBuf>,
    /// The guest's RAM, in MiB
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [128, 512, 2048],
          value_parser = clap::value_parser!(u32).range(1..))]
    memory: Vec<u32>,
    /// How many functions are shown of each kernel's boot, those that take most; 0 leaves them out
    #[arg(long, value_name = "N", default_value_t = 12)]
    symbols: usize,
    /// The seed of all that is random in the lab; where a boot gets stuck, all is done with the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object a boot, with all its functions
    #[arg(long)]
    json: bool,
    /// More arguments for `jiffy run`
    #[arg(last = true)]
    jiffy: Vec<String>,
}

/// One boot, up to init's first instruction.
#[derive(Debug, Serialize)]
struct Boot {
    kernel: PathBuf,
    memory_mib: u32,
    /// Of the lab.
    seed: u64,
    #[serde(flatten)]
    times: Times,
    phases: Vec<Phase>,
}

impl Boot {
    /// What the kernel is called in tables.
    fn name(&self) -> Cow<'_, str> {
        self.kernel.file_name().unwrap_or_default().to_string_lossy()
    }
}

/// In millions of instructions. Waits are included where nothing else is said.
#[derive(Debug, PartialEq, Serialize)]
struct Times {
    /// From the parent's stamp before exec to the first entry into the guest.
    vmm: f64,
    /// From there to init's first instruction.
    guest: f64,
    /// What of that the vCPU's thread was working, in the guest or on its behalf.
    guest_busy: f64,
}

/// From one event of the timeline to the next.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Phase {
    /// The event that it ends with.
    to: String,
    functions: Vec<Function>,
}

/// Instructions in a function.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Function {
    code: Code,
    name: String,
    instructions: u64,
}

/// Boots each kernel with each size of RAM, in one lab.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    build::all(ctx)?;
    build::agent(ctx)?;
    let boots = boot(ctx, args)?;
    if args.json {
        for boot in &boots {
            println!("{}", serde_json::to_string(boot)?);
        }
    } else {
        let seed = boots.first().map_or(args.seed, |boot| boot.seed);
        println!("Nested, ELF by Linux's 64-bit protocol, 1 CPU, seed {seed}, millions of instructions");
        print!("{}", report::text(&boots, args.symbols));
    }
    Ok(ExitCode::SUCCESS)
}

/// All boots, had with one seed.
fn boot(ctx: &Ctx, args: &Args) -> Result<Vec<Boot>> {
    let place = tempfile::tempdir()?;
    let initrd = place.path().join("initrd");
    let config = [Directive::Hostname("guest"), Directive::Exec("/init"), Directive::Arg("greet")];
    fs::write(&initrd, initramfs::with_init(built::INIT.read(ctx)?, &config)?.build()?)?;
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed: args.seed }));
    (lab.memory_mib, lab.allowance) = (3072, ALLOWANCE);
    lab.file("jiffy", &built::JIFFY.path(ctx)?).file("initrd", &initrd);
    let mut kernels = Vec::new();
    for (number, wanted) in args.kernel.iter().enumerate() {
        let (vmlinux, symbols) = find_kernel(ctx, wanted)?;
        let name = format!("kernel{number}");
        lab.file(&name, &vmlinux);
        kernels.push((wanted, name, symbols));
    }
    let plan = kernels.iter().flat_map(|kernel| args.memory.iter().map(move |&mib| (kernel, mib)));
    let plan: Vec<_> = plan.collect();
    let starts: Vec<_> = plan
        .iter()
        .map(|((_, name, symbols), mib)| Start { step: step(name, *mib, &args.jiffy), kernel: Some(symbols) })
        .collect();
    let step = ctx.step("Booting in the nested lab, counting instructions");
    let programs = Programs::built(ctx)?;
    let seeds = args.seed..=args.seed.saturating_add(REPEATS);
    let (seed, report, profiles) = profile::first_to_end("seed", seeds, |&seed| {
        lab.way = Way::Nested(Speed::Exact { seed });
        profile::run(ctx, &lab, &starts, &programs)
    })?;
    drop(step);
    let boots = plan.into_iter().zip(&report.steps).zip(&profiles);
    boots
        .map(|((((kernel, ..), memory_mib), step), profile)| {
            let times = times(step).with_context(|| format!("{}, {memory_mib} MiB", kernel.display()))?;
            Ok(Boot { kernel: (*kernel).clone(), memory_mib, seed, times, phases: phases(profile) })
        })
        .collect()
}

fn step(kernel: &str, mib: u32, jiffy: &[String]) -> Step {
    let line = format!(
        "{{jiffy}} run --kernel {{{kernel}}} --initrd {{initrd}} --protocol linux64 --kaslr off --cpus 1 --memory {mib}M \
         --timeline json --timeline-origin {{origin}}"
    );
    let words = line.split_whitespace().map(str::to_owned).chain(jiffy.iter().cloned());
    Step { deadline_ms: DEADLINE_MS, ..lab::step(kernel, words) }
}

fn times(step: &StepReport) -> Result<Times> {
    let said = String::from_utf8_lossy(&step.stderr);
    ensure!(step.status == Status::Exited(0), "{:?}: {said}", step.status);
    let rows = timeline::read(&said)?;
    let entry = timeline::first_run(&rows)?.at_ns;
    let init = timeline::mark(&rows, Mark::INIT_START)?;
    let millions = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    Ok(Times {
        vmm: millions(entry),
        guest: millions(init.at_ns - entry),
        guest_busy: millions(init.cpu_ns.context("no CPU time of the guest")?),
    })
}

/// What was executed up to init.
fn phases(profile: &Profile) -> Vec<Phase> {
    let init = Mark::INIT_START.name();
    let last = profile.phases.iter().position(|phase| Some(phase.name.as_str()) == init);
    let up_to_init = profile.phases.iter().take(last.map_or(0, |last| last + 1));
    let functions = |code: Code, functions: &Functions| {
        let one =
            move |(name, &instructions): (&String, &u64)| Function { code, name: name.clone(), instructions };
        functions.iter().map(one).collect::<Vec<_>>()
    };
    up_to_init
        .map(|phase| Phase {
            to: phase.name.clone(),
            functions: phase.costs.iter().flat_map(|(&code, all)| functions(code, all)).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(event: &str, code: u8) -> StepReport {
        let row = |event: &str, at: u32, more: &str| {
            format!(r#"{{"event":"{event}","at_ns":{at},"took_ns":1{more}}}"#)
        };
        let rows = [
            row("exec", 1_000_000, ""),
            row(event, 3_500_000, r#","cpu_ns":7"#),
            row("mark", 63_500_000, &format!(r#","cpu_ns":59000000,"code":{code},"name":"init""#)),
            row("mark", 99_000_000, r#","cpu_ns":1,"code":33"#),
            row("unaccounted", 99_500_000, ""),
        ];
        let stderr = format!("a warning\n{{\"rows\":[{}],\"lost_marks\":0}}\n", rows.join(","));
        StepReport {
            name: "boot".to_owned(),
            status: Status::Exited(0),
            stdout: Vec::new(),
            stderr: stderr.into_bytes(),
            files: Default::default(),
            started_ns: 0,
            ended_ns: 0,
            cpu: Default::default(),
        }
    }

    #[test]
    fn reads_the_times() {
        let expected = Times { vmm: 3.5, guest: 60.0, guest_busy: 59.0 };
        assert_eq!(times(&said("first-run", 0x20)).unwrap(), expected);
        assert!(times(&said("other", 0x20)).is_err() && times(&said("first-run", 0x10)).is_err());
        assert!(times(&StepReport { status: Status::Exited(1), ..said("first-run", 0x20) }).is_err());
    }

    #[test]
    fn what_comes_after_init_is_left_out() {
        let costs = |name: &str, n| [(Code::Vmm, [(name.to_owned(), n)].into())].into();
        let phase =
            |name: &str, n| profile::Phase { name: name.to_owned(), took_ns: None, costs: costs("f", n) };
        let init = Mark::INIT_START.name().unwrap();
        let all = vec![phase("exec", 5), phase(init, 7), phase("workload started", 9)];
        let profile = Profile { name: String::new(), phases: all, exits: Vec::new(), initcalls: Vec::new() };
        let found: Vec<_> = phases(&profile)
            .iter()
            .map(|phase| (phase.to.clone(), phase.functions[0].instructions))
            .collect();
        assert_eq!(found, [("exec".to_owned(), 5), (init.to_owned(), 7)]);
    }
}
