//! `run`: a real Linux, booted by `jiffy`.

mod host;
mod place;

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use abi::init_config::Directive;
use agent::{Event, Status, Stdin};
use anyhow::{Context, Result, bail, ensure};
use xtask::ctx::{Ctx, FAILED};
use xtask::kernel::Kernel;
use xtask::lab::qemu::{Input, Machine};
use xtask::lab::{self, Lab, Speed, Way};
use xtask::tuned::{Recipe, Tuned, Variant};
use xtask::{built, drivers, initramfs};

use super::build;
use place::Place;

/// Boot a real Linux in jiffy and run a command in it
///
/// Without arguments, the guest says hello and how long its start took. Then comes the timeline of its boot.
/// The exit status is that of the command in the guest.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where it runs; auto is native where this host's KVM can run Linux, else nested
    #[arg(long, value_enum, default_value_t = Place::Auto)]
    lab: Place,
    /// The kernel: one of jiffy's own, fast or full (built when it is not in the cache), Debian's (fetched), or a file;
    /// without this, fast when it is in the cache, else Debian's
    #[arg(long, value_name = "fast|full|debian|FILE")]
    kernel: Option<PathBuf>,
    /// Start this ROM first, jiffy's own or another; it starts the kernel if one is named
    #[arg(long, value_name = "none|jiffy|FILE", default_value = "none")]
    firmware: PathBuf,
    /// Run this in the guest: one word is a line for the shell, several are a program and its arguments; all that
    /// follows is part of it, up to a --
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<String>,
    /// End a guest that runs longer than this many seconds, in the nested lab and under QEMU
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    deadline: u32,
    /// Arguments for `jiffy run`
    #[arg(last = true)]
    jiffy: Vec<String>,
}

impl Args {
    /// Gives `jiffy` what follows a `--` after `--exec`; clap takes it for a part of the command.
    fn split_exec(&self) -> Self {
        let mut split = self.clone();
        if let Some(end) = self.exec.iter().position(|word| word == "--") {
            split.exec.truncate(end);
            split.jiffy.splice(..0, self.exec[end + 1..].iter().cloned());
        }
        split
    }
}

/// What the guest starts: a firmware, a kernel, or a kernel by a firmware.
struct Guest {
    firmware: Option<PathBuf>,
    kernel: Option<(PathBuf, PathBuf)>,
}

impl Guest {
    /// Its files: flags of `jiffy run`, and paths.
    fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let firmware = self.firmware.iter().map(|rom| ("firmware", rom.as_path()));
        let kernel = self.kernel.iter();
        firmware.chain(
            kernel.flat_map(|(kernel, initrd)| [("kernel", kernel.as_path()), ("initrd", initrd.as_path())]),
        )
    }
}

/// Builds, fetches, boots; the exit status is the guest's.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    let args = &args.split_exec();
    build::all(ctx)?;
    let place = place::choose(ctx, args)?;
    let folder = tempfile::tempdir()?;
    let guest = prepare(ctx, args, place, folder.path())?;
    let status = match place {
        Place::Auto | Place::Native => native(ctx, args, &guest)?,
        Place::Nested => nested(ctx, args, &guest)?,
        Place::Qemu => qemu(ctx, args, &guest)?,
    };
    Ok(ExitCode::from(status))
}

/// Where a kernel's modules are.
enum Modules {
    /// It has none, or nobody knows of them.
    None,
    /// In an archive with all of them, from which the guest loads those that it needs.
    Archive(PathBuf),
    /// In Debian's package. Init loads those that are named.
    Package(Kernel),
}

/// The kernel's file and its modules. Standard error is told which it is.
fn kernel(ctx: &Ctx, wanted: Option<&Path>) -> Result<(PathBuf, Modules)> {
    let own = |tuned: &Tuned, recipe: &Recipe| {
        eprintln!("guest kernel: {} ({})", tuned.variant, recipe.origin());
        (tuned.image(), tuned.modules().map_or(Modules::None, Modules::Archive))
    };
    match (wanted, wanted.and_then(Path::to_str).and_then(Variant::named)) {
        (_, Some(variant)) => {
            let recipe = Recipe::read(ctx, variant)?;
            return Ok(own(&recipe.build(ctx)?, &recipe));
        }
        (Some(name), None) if name == Path::new("debian") => {}
        (Some(file), None) => {
            ensure!(file.is_file(), "--kernel {}: no such file", file.display());
            return Ok((file.to_owned(), Modules::None));
        }
        (None, None) => {
            let recipe = Recipe::read(ctx, Variant::Fast)?;
            match recipe.cached(ctx) {
                Some(tuned) => return Ok(own(&tuned, &recipe)),
                None => eprintln!("a guest kernel that starts sooner: cargo xtask kernel build"),
            }
        }
    }
    let kernel = Kernel::debian(ctx)?;
    eprintln!("guest kernel: Debian's {} ({})", kernel.release, kernel.package.record.version);
    Ok((kernel.image.clone(), Modules::Package(kernel)))
}

fn prepare(ctx: &Ctx, args: &Args, place: Place, folder: &Path) -> Result<Guest> {
    let firmware = match args.firmware.to_str() {
        Some("none") => None,
        Some("jiffy") => Some(built::FIRMWARE.path(ctx)?),
        _ => Some(args.firmware.clone()),
    };
    if let Some(rom) = &firmware {
        ensure!(rom.is_file(), "--firmware {}: no such file", rom.display());
        if args.kernel.is_none() {
            ensure!(args.exec.is_empty(), "--exec needs a kernel, and --firmware alone starts none");
            return Ok(Guest { firmware, kernel: None });
        }
    }
    ensure!(
        args.exec.is_empty() || !host::root(&args.jiffy),
        "--exec needs jiffy's initramfs, and the guest whose --cmdline names a root gets none"
    );
    let (kernel, modules) = kernel(ctx, args.kernel.as_deref())?;
    let words: Vec<&str> = match args.exec.as_slice() {
        [] => vec!["/init", "greet"],
        [line] => vec!["/bin/sh", "-c", line],
        words => words.iter().map(String::as_str).collect(),
    };
    let drivers = match modules {
        Modules::Package(_) => drivers::of(args.jiffy.iter().map(String::as_str)),
        _ => Vec::new(),
    };
    let mut config: Vec<_> = drivers.iter().map(|&name| Directive::Module { name, parameters: "" }).collect();
    config.extend([Directive::Hostname("guest"), Directive::Exec(words[0])]);
    config.extend(words[1..].iter().map(|&word| Directive::Arg(word)));
    if place == Place::Qemu {
        config.push(Directive::PortsAlways);
    }
    let mut cpio = initramfs::with_init(built::INIT.read(ctx)?, &config)?;
    if !args.exec.is_empty() {
        initramfs::add_busybox(&mut cpio, ctx)?;
    }
    let archive = match &modules {
        Modules::None => None,
        Modules::Archive(path) => Some(path.as_path()),
        Modules::Package(kernel) => {
            initramfs::add_modules(&mut cpio, kernel, &drivers)?;
            None
        }
    };
    let initrd = folder.join("initrd");
    fs::write(&initrd, initramfs::build(cpio, archive)?)?;
    Ok(Guest { firmware, kernel: Some((kernel, initrd)) })
}

/// Arguments for `jiffy`, with files and the time of the start where the caller says that they are.
fn jiffy_args(args: &Args, guest: &Guest, file: impl Fn(&Path, &str) -> String, origin: &str) -> Vec<String> {
    let mut all = vec!["run".to_owned()];
    let mut flag = |name: &str, value: String| all.extend([format!("--{name}"), value]);
    // Who names another initrd or timeline means that one.
    let ours = |name: &str| {
        let given = |arg: &String| arg.strip_prefix("--").and_then(|arg| arg.split('=').next()) == Some(name);
        !args.jiffy.iter().any(given)
    };
    let root = host::root(&args.jiffy);
    for (name, path) in guest.files().filter(|(name, _)| ours(name) && !(root && *name == "initrd")) {
        flag(name, file(path, name));
    }
    flag("timeline-origin", origin.to_owned());
    if ours("timeline") {
        flag("timeline", "text".to_owned());
    }
    all.extend(args.jiffy.iter().cloned());
    all
}

fn native(ctx: &Ctx, args: &Args, guest: &Guest) -> Result<u8> {
    let mut command = Command::new(built::JIFFY.path(ctx)?);
    let start = agent::monotonic_ns();
    command.args(jiffy_args(args, guest, |path, _| path.to_string_lossy().into_owned(), &start.to_string()));
    let status = command.status().with_context(|| format!("cannot run {}", built::JIFFY.file))?;
    reaped(Duration::from_nanos(agent::monotonic_ns() - start));
    let signal = || status.signal().and_then(|signal| u8::try_from(128 + signal).ok());
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).or_else(signal).unwrap_or(FAILED))
}

fn nested(ctx: &Ctx, args: &Args, guest: &Guest) -> Result<u8> {
    build::agent(ctx)?;
    let mut lab = Lab::new(Way::Nested(Speed::Functional));
    lab.file("jiffy", &built::JIFFY.path(ctx)?);
    for (name, path) in guest.files() {
        lab.file(name, path);
    }
    lab.forward_stdin = true;
    for path in host::lost(&args.jiffy) {
        eprintln!("{path}: is in the nested lab, and gone with it");
    }
    let taps = host::taps(&args.jiffy);
    if !taps.is_empty() {
        lab.modules.push("tun".to_owned());
    }
    let plug = host::plug(&taps);
    let args = &Args { jiffy: host::files(&host::images(&args.jiffy, &mut lab)?, &mut lab)?, ..args.clone() };
    let words = plug.into_iter().chain(std::iter::once("{jiffy}".to_owned())).chain(jiffy_args(
        args,
        guest,
        |_, name| format!("{{{name}}}"),
        "{origin}",
    ));
    let mut step = lab::step("jiffy", words);
    step.stdin = Stdin::Open;
    step.deadline_ms = u64::from(args.deadline) * 1000;
    let starting = ctx.step("Starting the nested lab");
    let report = lab.watch(ctx, &[step], &mut |_, event| match event {
        Event::Begin => starting.done(),
        Event::Stdout(bytes) => show(&mut io::stdout(), bytes),
        Event::Stderr(bytes) => show(&mut io::stderr(), bytes),
        _ => {}
    })?;
    let step = report.steps.first().context("no report")?;
    reaped(Duration::from_nanos(step.ended_ns.saturating_sub(step.started_ns)));
    match &step.status {
        Status::Exited(code) => Ok(*code),
        Status::Signaled(signal) => Ok(u8::try_from(128 + signal).unwrap_or(FAILED)),
        Status::TimedOut => bail!("jiffy was still running after {} s", args.deadline),
        Status::NotStarted(why) => bail!("cannot run {why}"),
    }
}

fn qemu(ctx: &Ctx, args: &Args, guest: &Guest) -> Result<u8> {
    // Without ACPI: with it, QEMU's microvm has no timer by which a Linux under TCG could calibrate its clock. So
    // a reset, which ends QEMU, stands for power-off.
    const MICROVM: &str = "microvm,acpi=off";
    const CMDLINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t";
    let mut machine = match (&guest.firmware, &guest.kernel) {
        (Some(rom), None) => Machine::with_firmware(MICROVM, rom.clone()),
        (_, Some((kernel, initrd))) => Machine::new(MICROVM, kernel.clone(), initrd.clone(), CMDLINE),
        (None, None) => bail!("there is nothing to start"),
    };
    machine.firmware.clone_from(&guest.firmware);
    let deadline = Duration::from_secs(args.deadline.into());
    let ended = machine.boot(ctx, Input::Terminal, deadline, |bytes| {
        show(&mut io::stdout(), bytes);
        true
    })?;
    eprintln!("QEMU ended after {:.3} s", ended.wall.as_secs_f64());
    Ok(ended.status.unwrap_or_default())
}

/// The last row of the timeline, which the process itself cannot see.
fn reaped(after: Duration) {
    eprintln!("reaped by its parent {:.3} ms after its start", after.as_secs_f64() * 1e3);
}

/// Shows what a guest says as it comes. A reader that is gone does not end the guest.
fn show(to: &mut impl Write, bytes: &[u8]) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_firmware_gets_the_kernel_that_is_named() {
        let words = "run --firmware jiffy --kernel vmlinux --exec reboot -- --memory 64M";
        let args = Cli::parse_from(words.split(' ')).args.split_exec();
        assert_eq!(
            (args.firmware.as_path(), args.exec.as_slice()),
            (Path::new("jiffy"), &["reboot".to_owned()][..])
        );
        let guest = Guest { firmware: Some("rom".into()), kernel: Some(("vmlinux".into(), "cpio".into())) };
        let nested = jiffy_args(&args, &guest, |_, name| format!("{{{name}}}"), "{origin}");
        let expected = "run --firmware {firmware} --kernel {kernel} --initrd {initrd} --timeline-origin {origin} \
                        --timeline text --memory 64M";
        assert_eq!(nested.join(" "), expected);
        let native = jiffy_args(&args, &guest, |path, _| path.display().to_string(), "7");
        assert_eq!(native[..7].join(" "), "run --firmware rom --kernel vmlinux --initrd cpio");
        let jiffy = ["--initrd", "other"].map(str::to_owned).to_vec();
        let other = jiffy_args(&Args { jiffy, ..args.clone() }, &guest, |_, name| name.to_owned(), "7");
        assert_eq!(
            other.join(" "),
            "run --firmware firmware --kernel kernel --timeline-origin 7 --timeline text --initrd other"
        );
        let jiffy = vec!["--cmdline=root=/dev/vda".to_owned()];
        let root = jiffy_args(&Args { jiffy, ..args }, &guest, |_, name| name.to_owned(), "7");
        assert!(!root.contains(&"--initrd".to_owned()), "{root:?}");
    }
}
