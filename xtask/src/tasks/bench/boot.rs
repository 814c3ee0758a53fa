//! `bench boot`: what a Linux guest's boot takes, in instructions counted in the nested lab.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use abi::init_config::Directive;
use abi::timeline::Mark;
use agent::Status;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;
use xtask::lab::{self, Lab, Speed, Way};
use xtask::tuned::Recipe;
use xtask::{built, initramfs};

use crate::tasks::build;

/// From exec to init, for jiffy's own kernel and Debian's, in instructions counted in the nested lab
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernels
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Guest::Fast, Guest::Debian])]
    kernel: Vec<Guest>,
    /// The guest's RAM, in MiB
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [128, 512, 2048])]
    memory: Vec<u32>,
    /// The seed of all that is random in the lab; a run that stalls is worth repeating with another
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object a boot
    #[arg(long)]
    json: bool,
    /// More arguments for `jiffy run`
    #[arg(last = true)]
    jiffy: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Guest {
    Fast,
    Debian,
}

impl Guest {
    fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Debian => "debian",
        }
    }

    /// Its ELF file.
    fn vmlinux(self, ctx: &Ctx) -> Result<PathBuf> {
        match self {
            Self::Fast => Ok(Recipe::read(ctx)?.build(ctx)?.vmlinux()),
            Self::Debian => Kernel::debian(ctx)?.vmlinux(ctx),
        }
    }
}

/// One boot, in millions of instructions.
#[derive(Debug, PartialEq, Serialize)]
struct Boot {
    kernel: Guest,
    memory_mib: u32,
    #[serde(flatten)]
    phases: Phases,
}

/// Waits are included where nothing else is said.
#[derive(Debug, PartialEq, Serialize)]
struct Phases {
    /// From the parent's stamp before exec to the first entry into the guest.
    vmm: f64,
    /// From there to init's first instruction.
    guest: f64,
    /// What of that the vCPU's thread was working, in the guest or on its behalf.
    guest_busy: f64,
}

/// Boots each kernel with each size of RAM, in one lab.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    build::all(ctx)?;
    build::agent(ctx)?;
    let place = tempfile::tempdir()?;
    let initrd = place.path().join("initrd");
    let config = [Directive::Hostname("guest"), Directive::Exec("/init"), Directive::Arg("greet")];
    fs::write(&initrd, initramfs::with_init(built::INIT.read(ctx)?, &config)?.build()?)?;
    let mut lab = Lab::new(Way::Nested(Speed::Exact { seed: args.seed }));
    lab.memory_mib = 3072;
    lab.file("jiffy", &built::JIFFY.path(ctx)?).file("initrd", &initrd);
    for guest in &args.kernel {
        lab.file(guest.name(), &guest.vmlinux(ctx)?);
    }
    let plan: Vec<(Guest, u32)> =
        args.kernel.iter().flat_map(|&guest| args.memory.iter().map(move |&mib| (guest, mib))).collect();
    let steps: Vec<_> = plan
        .iter()
        .map(|(guest, mib)| {
            let line = format!(
                "{{jiffy}} run --kernel {{{}}} --initrd {{initrd}} --protocol linux64 --kaslr off --cpus 1 \
                 --memory {mib}M --timeline json --timeline-origin {{origin}}",
                guest.name()
            );
            let words = line.split_whitespace().map(str::to_owned).chain(args.jiffy.iter().cloned());
            lab::step(guest.name(), words)
        })
        .collect();
    let step = ctx.step("Booting in the nested lab, counting instructions");
    let report = lab.run(ctx, &steps)?;
    drop(step);
    if !args.json {
        println!(
            "Nested, ELF by Linux's 64-bit protocol, 1 CPU, seed {}, millions of instructions\n",
            args.seed
        );
        println!(
            "{:>9}  {:<8} {:>14} {:>14} {:>10}",
            "RAM", "kernel", "exec -> guest", "guest -> init", "of it busy"
        );
    }
    for ((kernel, memory_mib), step) in plan.into_iter().zip(&report.steps) {
        let said = String::from_utf8_lossy(&step.stderr);
        ensure!(
            step.status == Status::Exited(0),
            "{}, {memory_mib} MiB: {:?}: {said}",
            step.name,
            step.status
        );
        let phases = phases(&said).with_context(|| format!("no timeline in: {said}"))?;
        if args.json {
            println!("{}", serde_json::to_string(&Boot { kernel, memory_mib, phases })?);
        } else {
            let Phases { vmm, guest, guest_busy } = phases;
            println!(
                "{memory_mib:>5} MiB  {:<8} {vmm:>14.3} {guest:>14.3} {guest_busy:>10.3}",
                kernel.name()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What jiffy says with `--timeline json`, as much of it as is used here.
#[derive(Deserialize)]
struct Timeline {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    event: String,
    at_ns: u64,
    cpu_ns: Option<u64>,
    code: Option<u8>,
}

/// What a timeline says of the phases.
fn phases(said: &str) -> Option<Phases> {
    let line = said.lines().find(|line| line.starts_with('{'))?;
    let Timeline { rows } = serde_json::from_str(line).ok()?;
    let entry = rows.iter().find(|row| row.event == "first-run")?.at_ns;
    // The guest's first mark: the row has the time since the entry.
    let init = rows.iter().find(|row| row.event == "mark")?;
    let millions = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    (init.code == Some(Mark::INIT_START.0)).then_some(())?;
    Some(Phases {
        vmm: millions(entry),
        guest: millions(init.at_ns.checked_sub(entry)?),
        guest_busy: millions(init.cpu_ns?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_phases() {
        let row = |event: &str, at: u32, more: &str| {
            format!(r#"{{"event":"{event}","at_ns":{at},"took_ns":1{more}}}"#)
        };
        let rows = [
            row("exec", 1_000_000, ""),
            row("first-run", 3_500_000, r#","cpu_ns":7"#),
            row("mark", 63_500_000, r#","cpu_ns":59000000,"code":32,"name":"init""#),
            row("mark", 99_000_000, r#","cpu_ns":1,"code":33"#),
        ];
        let said = format!("a warning\n{{\"origin_ns\":7,\"rows\":[{}],\"lost_marks\":0}}\n", rows.join(","));
        assert_eq!(phases(&said), Some(Phases { vmm: 3.5, guest: 60.0, guest_busy: 59.0 }));
        assert_eq!(phases(&said.replace("first-run", "x")), None);
        assert_eq!(phases(&said.replace("\"code\":32", "\"code\":16")), None);
        assert_eq!(phases("nothing"), None);
    }
}
