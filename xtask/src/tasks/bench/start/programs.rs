//! What is started: `floor`, its C reference, `jiffy`, and QEMU's microvm; and when its guest marked.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use xtask::ctx::Ctx;
use xtask::timeline::{self, Row};
use xtask::{apt, built, guests};

use crate::tasks::build;

/// A VMM, or something that stands for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// The unavoidable system calls, in C.
    FloorC,
    /// The unavoidable system calls.
    Floor,
    Jiffy,
    /// QEMU's microvm with qboot.
    Qemu,
}

/// Where everything is that a run needs, by the name that stands for it in a command.
#[derive(Clone, Debug)]
pub struct Files {
    pub stopwatch: PathBuf,
    pub floor_c: PathBuf,
    pub floor: PathBuf,
    pub jiffy: PathBuf,
    pub qemu: PathBuf,
    /// A guest that marks and powers off.
    pub mark: PathBuf,
    /// A guest that marks and halts.
    pub idle: PathBuf,
}

impl Files {
    /// Builds what is not built yet.
    pub fn make(ctx: &Ctx) -> Result<Self> {
        build::all(ctx)?;
        build::agent(ctx)?;
        let (floor, stopwatch) = build::floor(ctx)?;
        let floor_c = ctx.target.join("guests/floor-c");
        let mark = guests::build(ctx, "mark")?;
        let mut cc = Command::new(apt::tool(ctx, "cc", "gcc")?);
        ctx.run(
            cc.args(["-O2", "-static"]).arg(ctx.root.join("tests/floor/floor.c")).arg("-o").arg(&floor_c),
        )?;
        Ok(Self {
            stopwatch,
            floor,
            floor_c,
            jiffy: built::JIFFY.path(ctx)?,
            qemu: apt::tool(ctx, "qemu-system-x86_64", "qemu-system-x86")?,
            idle: guests::build(ctx, "idle")?,
            mark,
        })
    }
}

impl Program {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::FloorC => "floor in C",
            Self::Floor => "floor",
            Self::Jiffy => "jiffy",
            Self::Qemu => "QEMU microvm, qboot",
        }
    }

    /// The command that starts `guest` with `mib` of RAM. `@start@` stands for the time of the start, which
    /// `stopwatch` fills in. The paths are those of `files`, or stand for them.
    pub fn command(self, files: &Files, guest: &str, mib: u64) -> Vec<String> {
        let words = |program: &PathBuf, rest: String| {
            let rest = rest.split_whitespace().map(str::to_owned);
            std::iter::once(program.display().to_string()).chain(rest).collect::<Vec<String>>()
        };
        match self {
            Self::FloorC => words(&files.floor_c, mib.to_string()),
            Self::Floor => words(&files.floor, mib.to_string()),
            Self::Jiffy => {
                let fixed = "--cpus 1 --console off --timeline json --timeline-origin @start@";
                let mut all = words(&files.jiffy, format!("run {fixed} --memory {mib}M --kernel"));
                all.push(guest.to_owned());
                all
            }
            Self::Qemu => {
                // MSR_IA32_ARCH_CAPABILITIES is read-only under KVM in software mode, and QEMU gives up on that.
                let machine = "-M microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off -bios qboot.rom";
                let cpu = "-accel kvm -cpu host,-arch-capabilities -nodefaults -no-user-config -display none";
                let ports = "-chardev stdio,id=mark,signal=off -device isa-debugcon,iobase=0x700,chardev=mark \
                             -device isa-debug-exit,iobase=0x600,iosize=1";
                let mut all = words(&files.qemu, format!("{machine} {cpu} {ports} -m {mib}M -kernel"));
                all.push(guest.to_owned());
                all
            }
        }
    }

    /// The exit status of a run that went well.
    fn status(self) -> i64 {
        match self {
            // isa-debug-exit: twice what the guest wrote, plus one.
            Self::Qemu => 0x34 * 2 + 1,
            _ => 0,
        }
    }

    /// When the guest marked, and what CPU time the program had used by then, where it says so.
    pub fn mark(self, record: &Record) -> Result<Mark> {
        let said = || format!("{} said: {}{}", self.name(), record.stdout, record.stderr);
        ensure!(record.status == Some(self.status()), "status {:?}; {}", record.status, said());
        let mark = match self {
            Self::FloorC | Self::Floor => floor_mark(&record.stdout),
            Self::Jiffy => jiffy_mark(&record.stderr).map(|mark| Mark { at: record.start + mark.at, ..mark }),
            Self::Qemu => record.first_output.map(|at| Mark { at, cpu: None, parts: Vec::new() }),
        };
        mark.with_context(|| format!("no mark; {}", said()))
    }
}

/// When a guest marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at: i64,
    /// Nanoseconds of CPU time of the process.
    pub cpu: Option<i64>,
    /// What these were used for, where the program says so.
    pub parts: Vec<(String, i64)>,
}

/// What `stopwatch` says of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub start: i64,
    pub first_output: Option<i64>,
    pub reaped: i64,
    pub status: Option<i64>,
    pub stdout: String,
    pub stderr: String,
}

/// Reads `mark NS CPU_NS`.
fn floor_mark(said: &str) -> Option<Mark> {
    let mut words = said.strip_prefix("mark ")?.split_whitespace().map(str::parse);
    Some(Mark { at: words.next()?.ok()?, cpu: Some(words.next()?.ok()?), parts: Vec::new() })
}

/// When `jiffy`'s guest marked first; the timeline's times begin with the run.
fn jiffy_mark(said: &str) -> Option<Mark> {
    let rows = timeline::read(said).ok()?;
    let mark = rows.iter().position(|row| row.mark().is_some())?;
    let rows = &rows[..=mark];
    let cpu = |row: &Row| row.cpu_ns.map(u64::cast_signed);
    let parts = rows.iter().filter_map(|row| Some((row.event.clone(), cpu(row)?))).collect();
    Some(Mark { at: rows[mark].at_ns.cast_signed(), cpu: rows.iter().map(cpu).sum(), parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read() {
        let mark = |at, cpu, parts: &[(&str, i64)]| {
            Some(Mark { at, cpu, parts: parts.iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect() })
        };
        assert_eq!(floor_mark("mark 12 3\n"), mark(12, Some(3), &[]));
        assert_eq!(floor_mark("mark 12\n"), None);
        let timeline = |cpu: &str| {
            format!(
                r#"{{"origin_ns":5,"rows":[{{"event":"exec","at_ns":4,"took_ns":4,"cpu_ns":3}},
                {{"event":"mark","at_ns":9,"took_ns":5,"code":128{cpu}}},
                {{"event":"mark","at_ns":20,"took_ns":11,"cpu_ns":1,"code":128}},
                {{"event":"unaccounted","at_ns":26,"took_ns":6}}],"lost_marks":0}}"#
            )
            .replace('\n', "")
        };
        assert_eq!(jiffy_mark(&timeline(r#","cpu_ns":2"#)), mark(9, Some(5), &[("exec", 3), ("mark", 2)]));
        assert_eq!(jiffy_mark(&timeline("")), mark(9, None, &[("exec", 3)]));
        assert_eq!(jiffy_mark("{}"), None);
    }
}
