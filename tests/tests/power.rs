//! Power cuts: what a guest was told is flushed survives the end of the machine that `jiffy` runs on.
//!
//! That machine is a nested lab with a disk of its own. Its QEMU is killed while a guest in it writes, so all that the
//! lab's kernel kept in memory is lost; what it had handed to its disk is in the disk's file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use agent::{Event, Status, Step};
use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use tests::suite;
use xtask::ctx::Ctx;
use xtask::lab::{self, Lab};
use xtask::{built, images};

/// Rounds of writing and cutting for each kind of disk.
const ROUNDS: u64 = 3;
/// Acknowledged writes in each round before the power is cut.
const WRITES: u64 = 12;
/// How often a lab is started whose power could not be cut: QEMU's emulation has no timer now and then on a busy host, and
/// ends a guest in a triple fault.
const STARTS: usize = 3;
/// Blocks of the image that a guest writes to.
const BLOCKS: u64 = 512;
/// What the guest's kernel loads.
const MODULES: [&str; 4] = ["virtio_mmio", "virtio_blk", "virtio_pmem", "nd_pmem"];

/// What the guest writes to.
#[derive(Clone, Copy, Debug)]
struct Target {
    /// Flag of `jiffy run`, and its value.
    flag: [&'static str; 2],
    /// In the guest.
    device: &'static str,
    /// Where the guest's data are on the lab's disk.
    image: &'static str,
}

const RAW: Target = Target { flag: ["--disk", "path=/disk/image"], device: "/dev/vda", image: "/disk/image" };
const OVERLAY: Target =
    Target { flag: ["--disk", "path=/disk/image,overlay=/disk/overlay"], image: "/disk/overlay", ..RAW };
const PMEM: Target = Target { flag: ["--pmem", "path=/disk/image"], device: "/dev/pmem0", ..RAW };

fn main() -> ExitCode {
    suite::run(|ctx, _| Ok(trials(ctx)))
}

fn trials(ctx: &Ctx) -> Vec<Trial> {
    // Labs beside each other would be slow, and cut from each other's time.
    let one = Arc::new(Mutex::new(()));
    let trial = |name: &str, target: Target, flushes: bool| {
        let (ctx, one) = (ctx.clone(), Arc::clone(&one));
        suite::test(name, move || {
            let _alone = one.lock().unwrap_or_else(PoisonError::into_inner);
            let lost = cut_power(&ctx, target, flushes)?;
            match (flushes, lost.is_empty()) {
                (true, false) => bail!("flushed, and lost: {lost:?}"),
                (false, true) => {
                    bail!("nothing was lost although nothing was flushed: the test sees nothing")
                }
                _ => Ok(()),
            }
        })
    };
    vec![
        trial("raw", RAW, true),
        trial("overlay", OVERLAY, true),
        trial("pmem", PMEM, true),
        trial("raw_without_flushes", RAW, false),
        trial("pmem_without_flushes", PMEM, false),
    ]
}

/// The lab's own disk, and what is to be found on the guest's.
struct Bench {
    lab: Lab,
    pid: PathBuf,
    target: Target,
    flushes: bool,
}

/// Writes and cuts, several times over; the writes that the guest was told are flushed, and that are gone.
fn cut_power(ctx: &Ctx, target: Target, flushes: bool) -> Result<BTreeSet<u64>> {
    let place = tempfile::tempdir()?;
    let bench = Bench::new(ctx, place.path(), target, flushes)?;
    let mut told = BTreeSet::new();
    let mut next = 1;
    // Without flushes one round tells enough.
    for _ in 0..if flushes { ROUNDS } else { 1 } {
        let (found, more) = bench.round(ctx, next)?;
        let lost: BTreeSet<u64> = told.difference(&found).copied().collect();
        if !lost.is_empty() {
            return Ok(lost);
        }
        told.extend(&more);
        next = told.last().map_or(1, |last| last + 1);
    }
    let found = bench.read(ctx)?;
    Ok(told.difference(&found).copied().collect())
}

impl Bench {
    fn new(ctx: &Ctx, place: &Path, target: Target, flushes: bool) -> Result<Self> {
        let tree = place.join("tree");
        fs::create_dir(&tree)?;
        fs::write(tree.join("image"), vec![0; BLOCKS as usize * 4096])?;
        let hard_disk = place.join("disk");
        images::ext4(ctx, 32, &tree, &hard_disk)?;
        let pid = place.join("pid");
        let mut lab = suite::nested_lab(ctx)?;
        suite::debian(ctx, &mut lab, place, &MODULES)?;
        lab.file("no-flush", &built::tool(ctx, "no-flush"));
        lab.modules = ["virtio_pci", "virtio_blk"].map(str::to_owned).to_vec();
        let drive = format!("file={},format=raw,if=none,id=disk,cache=writeback", hard_disk.display());
        let args = ["-drive", &drive, "-device", "virtio-blk-pci,drive=disk", "-pidfile"];
        lab.emulator_args = args.map(str::to_owned).to_vec();
        lab.emulator_args.push(pid.display().to_string());
        Ok(Self { lab, pid, target, flushes })
    }

    /// What is on the disk, one line for each write. The lab's kernel writes nothing to its disk that it is not told to,
    /// however long the guest takes.
    fn look(&self) -> Step {
        let line = format!(
            "echo 0 > /proc/sys/vm/dirty_writeback_centisecs; mkdir -p /disk && mount -t ext4 -o commit=3600 /dev/vda /disk && touch {0} && tr -d '\\0' < {0} | grep -a '^write [0-9]* ends$'; \
             echo found",
            self.target.image
        );
        lab::step("look", ["/bin/sh", "-c", &line])
    }

    /// A guest that writes, and says so when each write is flushed.
    fn write(&self, first: u64) -> Step {
        let line = format!(
            "until [ -b {device} ]; do sleep 0.1; done; i={first}; while [ $i -lt {BLOCKS} ]; do printf '\\nwrite %s ends\\n' $i | \
             dd of={device} bs=4096 seek=$i conv=notrunc,sync,fsync 2>/dev/null && echo flushed $i; i=$((i+1)); done",
            device = self.target.device
        );
        let before = if self.flushes { vec![] } else { vec!["{no-flush}".to_owned()] };
        let cmdline =
            format!("console=ttyS0 quiet panic=-1 reboot=k cryptomgr.notests -- /bin/sh -c \"{line}\"");
        let words = ["{jiffy}", "run", "--kernel", "{kernel}", "--initrd", "{initrd}"];
        let words =
            words.into_iter().chain(self.target.flag).chain(["--cmdline", &cmdline]).map(str::to_owned);
        lab::step("write", before.into_iter().chain(words))
    }

    /// Looks what is there, then has a guest write from block `first` on, and cuts the power in the middle of that:
    /// the writes that were there, and those that the guest was told are flushed.
    fn round(&self, ctx: &Ctx, first: u64) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
        let (mut found, mut shown, mut cut) = (Vec::new(), Vec::new(), false);
        let mut result = Ok(None);
        for _ in 0..STARTS {
            // What the guest was told the last time is kept: that lab ended by itself.
            found.clear();
            let run = self.lab.watch(ctx, &[self.look(), self.write(first)], &mut |step, event| {
                if let Event::Stdout(bytes) = event
                    && !cut
                {
                    let to: &mut Vec<u8> = if step == 0 { &mut found } else { &mut shown };
                    to.extend_from_slice(bytes);
                    if numbers(&shown, "flushed ", "").len() as u64 >= WRITES {
                        cut = kill(&self.pid);
                    }
                }
            });
            result = run.map(|report| report.steps.into_iter().last().map(|step| (step.status, step.stderr)));
            if cut {
                break;
            }
        }
        let text = |end: &Option<(Status, Vec<u8>)>| {
            end.as_ref().map(|(status, said)| format!("{status:?}: {}", String::from_utf8_lossy(said)))
        };
        ensure!(cut, "the guest never wrote enough: {:?}", result.as_ref().map(text));
        ensure!(result.is_err(), "the lab survived the cut");
        ensure!(String::from_utf8_lossy(&found).contains("found"), "the disk could not be read");
        Ok((numbers(&found, "write ", " ends"), numbers(&shown, "flushed ", "")))
    }

    fn read(&self, ctx: &Ctx) -> Result<BTreeSet<u64>> {
        let report = self.lab.run(ctx, &[self.look()])?;
        let step = report.steps.first().context("no report")?;
        ensure!(step.status == Status::Exited(0), "{:?}: {:?}", step.status, step.stderr);
        Ok(numbers(&step.stdout, "write ", " ends"))
    }
}

/// Kills the process whose number is in the file.
fn kill(pid: &Path) -> bool {
    let number = fs::read_to_string(pid).ok().and_then(|text| text.trim().parse().ok());
    number.and_then(Pid::from_raw).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// The numbers in lines that begin and end so.
fn numbers(text: &[u8], begin: &str, end: &str) -> BTreeSet<u64> {
    let text = String::from_utf8_lossy(text);
    let number = |line: &str| line.trim_end().strip_prefix(begin)?.strip_suffix(end)?.parse().ok();
    // What comes after the last line break is a line that may be longer.
    let whole = text.rfind('\n').map_or("", |at| &text[..at]);
    whole.lines().filter_map(number).collect()
}
