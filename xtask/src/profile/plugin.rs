//! The plugin that counts: how it is built and told what to do, and what it says.
//!
//! It is told [`Point`]s, one a line: `cut l ADDRESS BYTES`, `step l ADDRESS BYTES`, `mark g ADDRESS`, `inside g FROM TO`, `kind l ADDRESS NAME`;
//! `l` and `g` stand for the lab and the guest. It says, in lines as well: `b WORLD ADDRESS BYTES OFFSET:INSTRUCTIONS:COUNT…`
//! (a block), `x KIND WORLD BLOCK BYTES ADDRESS COUNT KERNEL USER` (exits and what they took in the lab), `c`, `m` and `i` with the index
//! of a point and the instructions that the lab's kernel, its programs and the guest had executed by then, and at last
//! `end`.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt;
use crate::ctx::Ctx;

/// Which of two kernels or programs with the same addresses executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum World {
    /// What QEMU runs.
    Lab,
    /// What KVM runs in it.
    Guest,
}

impl World {
    fn letter(self) -> char {
        match self {
            Self::Lab => 'l',
            Self::Guest => 'g',
        }
    }

    fn parse(word: &str) -> Option<Self> {
        match word {
            "l" => Some(Self::Lab),
            "g" => Some(Self::Guest),
            _ => None,
        }
    }
}

/// Where the plugin does something.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    text: String,
}

impl Points {
    /// Begins a new count at `address`, if `bytes` are there: user programs share addresses.
    pub fn cut(&mut self, world: World, address: u64, bytes: &[u8]) {
        self.line(format_args!("cut {} {address:x} {}", world.letter(), hex_of(bytes)));
    }

    /// A cut after which the guest that was left last is not entered again.
    pub fn step(&mut self, world: World, address: u64, bytes: &[u8]) {
        self.line(format_args!("step {} {address:x} {}", world.letter(), hex_of(bytes)));
    }

    /// Says when `address` is reached.
    pub fn mark(&mut self, world: World, address: u64) {
        self.line(format_args!("mark {} {address:x}", world.letter()));
    }

    /// Says when a block that begins from `from` to before `to` is reached.
    pub fn inside(&mut self, world: World, (from, to): (u64, u64)) {
        self.line(format_args!("inside {} {from:x} {to:x}", world.letter()));
    }

    /// Calls exits after which the lab reaches `address` `name`; of several, the last that was added.
    pub fn kind(&mut self, address: u64, name: &str) {
        self.line(format_args!("kind l {address:x} {name}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }
}

/// As many bytes as the plugin looks at.
fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The plugin and its files.
#[derive(Debug)]
pub(super) struct Plugin {
    program: PathBuf,
    place: tempfile::TempDir,
}

impl Plugin {
    /// Compiles it.
    pub fn build(ctx: &Ctx, points: &Points) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let program = place.path().join("profile.so");
        let mut cc = Command::new(apt::tool(ctx, "cc", "gcc")?);
        cc.args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]);
        ctx.run(cc.arg(ctx.root.join("xtask/src/profile/plugin.c")).arg("-o").arg(&program))?;
        fs::write(place.path().join("points"), &points.text)?;
        Ok(Self { program, place })
    }

    /// QEMU's arguments for it; with `device_io`, accesses to devices of QEMU's own machine are counted as well, at
    /// a price in time.
    pub fn args(&self, device_io: bool) -> [String; 2] {
        let place = self.place.path().display();
        let io = if device_io { ",io=on" } else { "" };
        let (program, points) = (self.program.display(), format!("{place}/points"));
        ["-plugin".to_owned(), format!("{program},points={points},out={place}/counts{io}")]
    }

    /// What it counted, when QEMU has ended.
    pub fn counts(&self) -> Result<Vec<Segment>> {
        read(&self.place.path().join("counts"))
    }
}

/// Instructions executed until some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    pub lab_kernel: u64,
    pub lab_user: u64,
    pub guest: u64,
}

impl Clock {
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut next = || words.next()?.parse().ok();
        Some(Self { lab_kernel: next()?, lab_user: next()?, guest: next()? })
    }
}

/// Where an instruction is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub world: World,
    /// Of the block that it is in, and its first bytes.
    pub block: u64,
    pub head: Vec<u8>,
    pub address: u64,
}

impl Place {
    /// Reads world, address of the block, bytes; its first instruction.
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut word = || words.next().context("a word is missing");
        let world = World::parse(word()?).context("no world")?;
        let block = hex(word()?)?;
        let head = word()?;
        let bytes = (0..head.len() / 2).map(|i| u8::from_str_radix(&head[2 * i..2 * i + 2], 16));
        Ok(Self { world, block, head: bytes.collect::<Result<_, _>>()?, address: block })
    }
}

fn hex(word: &str) -> Result<u64> {
    u64::from_str_radix(word, 16).context("not hexadecimal")
}

/// Instructions in a row that were executed alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Of the first one.
    pub at: Place,
    /// How many instructions were executed: those of the run, times how often.
    pub executed: u64,
}

/// Why a guest was left, where, how often, and what that took in the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawExit {
    pub kind: String,
    pub at: Place,
    pub count: u64,
    pub kernel: u64,
    pub user: u64,
}

/// A point that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The marks are counted from 0.
    Mark(usize, Clock),
    Inside(Clock),
}

/// From one cut to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// The cut that it begins with, counted from 0.
    pub cut: usize,
    pub start: Clock,
    pub runs: Vec<Run>,
    pub exits: Vec<RawExit>,
    pub reached: Vec<Reached>,
}

fn read(path: &Path) -> Result<Vec<Segment>> {
    let file = fs::File::open(path).with_context(|| format!("the plugin left no {}", path.display()))?;
    let mut segments: Vec<Segment> = Vec::new();
    let mut ended = false;
    for line in BufReader::with_capacity(1 << 20, file).lines() {
        let line = line?;
        ended = line == "end";
        if !ended {
            take(&mut segments, &line).with_context(|| format!("the plugin said: {line}"))?;
        }
    }
    ensure!(ended, "the plugin did not come to its end");
    Ok(segments)
}

fn take(segments: &mut Vec<Segment>, line: &str) -> Result<()> {
    let (what, rest) = line.split_once(' ').context("one word")?;
    let mut words = rest.split(' ');
    if what == "c" {
        let cut = words.next().context("no index")?.parse()?;
        let start = Clock::parse(words).context("a clock is missing")?;
        segments.push(Segment { cut, start, ..Segment::default() });
        return Ok(());
    }
    let segment = segments.last_mut().context("before the first cut")?;
    match what {
        "b" => {
            let block = Place::parse(&mut words)?;
            for run in words {
                let mut parts = run.split(':');
                let mut part = || parts.next().context("a part is missing");
                let at = Place { address: block.block + hex(part()?)?, ..block.clone() };
                let executed = part()?.parse::<u64>()? * part()?.parse::<u64>()?;
                segment.runs.push(Run { at, executed });
            }
        }
        "x" => {
            let kind = words.next().context("no kind")?.to_owned();
            let at = Place::parse(&mut words)?;
            let mut word = || words.next().context("a word is missing");
            let at = Place { address: hex(word()?)?, ..at };
            let (count, kernel, user) = (word()?.parse()?, word()?.parse()?, word()?.parse()?);
            segment.exits.push(RawExit { kind, at, count, kernel, user });
        }
        "m" | "i" => {
            let index = words.next().context("no index")?.parse()?;
            let clock = Clock::parse(words).context("a clock is missing")?;
            let reached = if what == "m" { Reached::Mark(index, clock) } else { Reached::Inside(clock) };
            segment.reached.push(reached);
        }
        _ => bail!("a line of an unknown kind"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_plugin_says_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("counts");
        let text = "c 1 10 20 0\nm 3 11 20 5\nb g ffffffff81000000 9090c3 0:2:7 2:1:6\n\
                    x cpuid g ffffffff81000000 9090 ffffffff81000002 2 900 30\nc 0 15 20 9\nend\n";
        fs::write(&path, text).unwrap();
        let [first, second] = read(&path).unwrap().try_into().unwrap();
        assert_eq!((first.cut, first.start), (1, Clock { lab_kernel: 10, lab_user: 20, guest: 0 }));
        assert_eq!(first.reached, [Reached::Mark(3, Clock { lab_kernel: 11, lab_user: 20, guest: 5 })]);
        let at = |address| Place {
            world: World::Guest,
            block: 0xffff_ffff_8100_0000,
            head: vec![0x90, 0x90, 0xc3],
            address,
        };
        let run = |address, executed| Run { at: at(address), executed };
        assert_eq!(first.runs, [run(0xffff_ffff_8100_0000, 14), run(0xffff_ffff_8100_0002, 6)]);
        assert_eq!((first.exits[0].kind.as_str(), first.exits[0].count), ("cpuid", 2));
        assert_eq!((first.exits[0].kernel, first.exits[0].user), (900, 30));
        assert_eq!(second, Segment { cut: 0, start: second.start, ..Segment::default() });
        for broken in ["c 1 10 20 0\n", "b g 1 90 0:1:1\nend\n", "c 0 1 2 3\nx cpuid\nend\n"] {
            fs::write(&path, broken).unwrap();
            assert!(read(&path).is_err(), "{broken}");
        }
    }
}
