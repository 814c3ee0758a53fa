//! `build`: what users take away, in `target/dist/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use abi::layout;
use anyhow::{Context, Result, bail, ensure};
use goblin::elf::program_header::PT_LOAD;
use indicatif::HumanBytes;
use xtask::built::{self, TARGET};
use xtask::ctx::Ctx;
use xtask::{apt, cache};

mod order;

/// Build the parts that users take away into target/dist
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Builds all parts and prints their sizes.
pub fn run(ctx: &Ctx, _: &Args) -> Result<ExitCode> {
    for path in all(ctx)? {
        println!("{:>10}  {}", HumanBytes(fs::metadata(&path)?.len()).to_string(), path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds all parts; returns the files.
pub fn all(ctx: &Ctx) -> Result<Vec<PathBuf>> {
    let jiffy = jiffy(ctx)?;
    let step = ctx.step("Building jiffy-init");
    let init = install(ctx, &cargo_build(ctx, &INIT)?, built::INIT.file)?;
    step.message("Building jiffy-firmware.rom");
    let elf = cargo_build(ctx, &FIRMWARE)?;
    let rom = rom(&fs::read(&elf)?).with_context(|| format!("{} is no ROM", elf.display()))?;
    let rom = write(&ctx.dist().join(built::FIRMWARE.file), &rom)?;
    step.message("Writing shell completions");
    let mut files = vec![jiffy, init, rom];
    for (shell, name) in [("bash", "jiffy.bash"), ("zsh", "_jiffy"), ("fish", "jiffy.fish")] {
        let text = ctx.read(Command::new(&files[0]).args(["completions", shell]))?;
        files.push(write(&ctx.dist().join("completions").join(name), text.as_bytes())?);
    }
    Ok(files)
}

/// Builds the VMM alone.
pub fn jiffy(ctx: &Ctx) -> Result<PathBuf> {
    let step = ctx.step("Building jiffy");
    if order::current(ctx).is_none() {
        // Tells which functions there are.
        ctx.run(cargo(ctx, &JIFFY).args(UNOPTIMIZED))?;
        order::renew(ctx, &built_file(ctx, &JIFFY))?;
    }
    let mut built = cargo_build(ctx, &JIFFY)?;
    if order::renew(ctx, &built)? {
        step.message("Linking jiffy again, in the order of its start");
        built = cargo_build(ctx, &JIFFY)?;
    }
    install(ctx, &built, built::JIFFY.file)
}

/// Builds what start-up times are compared with and measured by; returns `floor` and `stopwatch`.
pub fn floor(ctx: &Ctx) -> Result<(PathBuf, PathBuf)> {
    let _step = ctx.step("Building floor");
    Ok((cargo_build(ctx, &FLOOR)?, cargo_build(ctx, &STOPWATCH)?))
}

/// Builds the VMM and init with the slowdown on purpose, which goes so many times round each; returns their files, which
/// have the names of functions. What users take away stays as it is.
pub fn planted(ctx: &Ctx, jiffy: u64, init: u64) -> Result<(PathBuf, PathBuf)> {
    let step = ctx.step("Building jiffy with a planted slowdown");
    let folder = ctx.target.join("planted");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let build = |program: &Program, rounds: u64| -> Result<PathBuf> {
        let mut cargo = cargo(ctx, program);
        ctx.run(cargo.env("JIFFY_PLANTED", rounds.to_string()))?;
        let to = folder.join(program.bin);
        fs::copy(built_file(ctx, program), &to).with_context(|| format!("cannot write {}", to.display()))?;
        // Cargo's own file becomes again what it was.
        ctx.run(&mut self::cargo(ctx, if program.bin == JIFFY.bin { &JIFFY } else { &INIT }))?;
        Ok(to)
    };
    let planted = build(&Program { features: Some("planted"), ..JIFFY }, jiffy)?;
    step.message("Building jiffy-init with a planted slowdown");
    Ok((planted, build(&Program { features: Some("bin,planted"), ..INIT }, init)?))
}

/// Builds the lab's agent, which stays in cargo's own folder.
pub fn agent(ctx: &Ctx) -> Result<()> {
    let _step = ctx.step("Building the lab's agent");
    cargo_build(ctx, &AGENT).map(|_| ())
}

/// Builds the programs that suites and benches run in labs and guests; they stay in cargo's own folder.
pub fn tools(ctx: &Ctx) -> Result<()> {
    let _step = ctx.step("Building tools for labs and guests");
    TOOLS.iter().try_for_each(|tool| cargo_build(ctx, tool).map(|_| ()))
}

/// Builds the unikernels of `tests/guests`, which stay in cargo's own folder.
pub fn unikernels(ctx: &Ctx) -> Result<()> {
    let _step = ctx.step("Building unikernels");
    UNIKERNELS.iter().try_for_each(|program| cargo_build(ctx, program).map(|_| ()))
}

/// Builds the program by which tests and benches talk from a guest to the lab.
pub fn wire(ctx: &Ctx) -> Result<()> {
    let _step = ctx.step("Building wire");
    cargo_build(ctx, &WIRE).map(|_| ())
}

/// Builds the program that tests run in place of the VMM, to pause guests; as wire.
pub fn pauser(ctx: &Ctx) -> Result<()> {
    let _step = ctx.step("Building pauser");
    ctx.run(cargo(ctx, &PAUSER).args(UNOPTIMIZED))
}

/// A program and how it is built.
struct Program {
    package: &'static str,
    bin: &'static str,
    profile: &'static str,
    features: Option<&'static str>,
    flags: &'static str,
}

/// Static, without relocations: the dynamic linker would take a quarter of the time to the guest's first instruction.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";
const JIFFY: Program =
    Program { package: "vmm", bin: "jiffy", profile: "jiffy", features: None, flags: STATIC };
/// What the linker leaves out of it.
const LAYOUT: &str = "vmm/link.ld";
const AGENT: Program =
    Program { package: "agent", bin: "lab-agent", profile: "jiffy", features: None, flags: STATIC };
const WIRE: Program =
    Program { package: "wire", bin: "wire", profile: "jiffy", features: None, flags: STATIC };
/// Spares what is put together of packages, which are optimized, the optimizer's second look, which takes most of the time.
/// Functions have the names that they have with it.
const UNOPTIMIZED: [&str; 2] = ["-C", "opt-level=0"];
/// As the VMM is built, so that they share what both have of cargo's folder, but for how fast it is.
const PAUSER: Program =
    Program { package: "pauser", bin: "pauser", profile: "jiffy", features: None, flags: STATIC };
const FLOOR: Program =
    Program { package: "floor", bin: "floor", profile: "jiffy", features: None, flags: STATIC };
const STOPWATCH: Program =
    Program { package: "floor", bin: "stopwatch", profile: "jiffy", features: None, flags: STATIC };
const TOOLS: [Program; 2] = [tool("io-load"), tool("no-flush")];
const INIT: Program =
    Program { package: "guest-init", bin: "jiffy-init", profile: "init", features: Some("bin"), flags: "" };

const UNIKERNELS: [Program; 2] = [unikernel("unikernel-hello"), unikernel("unikernel-http")];

const fn unikernel(bin: &'static str) -> Program {
    Program { package: "unikernel", bin, profile: "firmware", features: Some("bin"), flags: "" }
}

const FIRMWARE: Program = Program {
    package: "firmware",
    bin: "jiffy-firmware",
    profile: "firmware",
    features: Some("bin"),
    flags: "",
};

const fn tool(bin: &'static str) -> Program {
    Program { package: "tools", bin, profile: "release", features: None, flags: STATIC }
}

/// Builds a program and returns its file.
fn cargo_build(ctx: &Ctx, program: &Program) -> Result<PathBuf> {
    ctx.run(&mut cargo(ctx, program))?;
    Ok(built_file(ctx, program))
}

/// The command that builds a program. The target is always named: only then do flags spare what runs at build time.
fn cargo(ctx: &Ctx, program: &Program) -> Command {
    let Program { package, bin, profile, features, flags } = program;
    let mut cargo = ctx.cargo();
    cargo.args(["rustc", "--target", TARGET, "--package", package, "--bin", bin, "--profile", profile]);
    cargo.args(features.iter().flat_map(|features| ["--features", features]));
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags);
    // What is added goes to the compiler, for the program itself.
    cargo.arg("--");
    if program.bin == JIFFY.bin {
        let link = |words: String| ["-C".to_owned(), format!("link-arg=-Wl,{words}")];
        cargo.args(link(format!("--no-eh-frame-hdr,-T,{}", ctx.root.join(LAYOUT).display())));
        if let Some(order) = order::current(ctx) {
            let order = order.display();
            cargo.args(link(format!("--no-warn-symbol-ordering,--symbol-ordering-file={order}")));
        }
    }
    cargo
}

fn built_file(ctx: &Ctx, program: &Program) -> PathBuf {
    ctx.target.join(TARGET).join(program.profile).join(program.bin)
}

/// The bytes of the one segment that has any: they end where the processor's first instruction is looked for.
fn rom(elf: &[u8]) -> Result<Vec<u8>> {
    let parsed = goblin::elf::Elf::parse(elf)?;
    let mut segments = parsed.program_headers.iter().filter(|it| it.p_type == PT_LOAD && it.p_filesz > 0);
    let (Some(segment), None) = (segments.next(), segments.next()) else {
        bail!("not one segment with bytes")
    };
    ensure!(
        segment.p_filesz.is_multiple_of(64 << 10),
        "{} bytes are no multiple of 64 KiB",
        segment.p_filesz
    );
    ensure!(segment.p_paddr + segment.p_filesz == layout::ROM.end(), "it does not end at 4 GiB");
    let bytes = elf.get(segment.file_range()).context("segment is outside of the file")?;
    Ok(bytes.to_vec())
}

/// Copies a program to the dist folder, unless it is there already; without the names of its functions, of which
/// cargo's own file keeps a copy.
fn install(ctx: &Ctx, from: &Path, name: &str) -> Result<PathBuf> {
    let to = ctx.dist().join(name);
    let stripped = tempfile::NamedTempFile::new()?.into_temp_path();
    let mut strip = Command::new(apt::tool(ctx, "strip", "binutils")?);
    ctx.run(strip.arg("--strip-all").arg("-o").arg(&stripped).arg(from))?;
    let bytes = fs::read(&stripped)?;
    if fs::read(&to).is_ok_and(|there| there == bytes) {
        return Ok(to);
    }
    let path = write(&to, &bytes)?;
    fs::set_permissions(&path, fs::metadata(from)?.permissions())?;
    Ok(path)
}

fn write(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let folder = path.parent().context("file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    cache::write(path, bytes)?;
    Ok(path.to_owned())
}
