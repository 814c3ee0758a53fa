//! What a VMM holds beside its guest's RAM while the guest does nothing.

use std::fs;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::programs::{Files, Program};

const MIB: u64 = 128;
/// A VMM that does nothing has the same figures after this time.
const STILL: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(20);

/// Memory beside guest RAM, in kB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub program: Program,
    /// Proportional: a page that n processes share counts 1/n.
    pub pss_kb: u64,
    pub anonymous_kb: u64,
}

/// Starts a guest that halts, waits until the figures stand still, and ends the VMM.
pub fn measure(files: &Files, program: Program) -> Result<Memory> {
    let guest = files.idle.to_string_lossy();
    let (name, args) = {
        let mut words = program.command(files, &guest, MIB);
        (words.remove(0), words)
    };
    let args = args.into_iter().map(|arg| arg.replace("@start@", "0"));
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.name()))?;
    let found = settle(&mut child);
    // SIGKILL: how a VMM ends is measured elsewhere.
    child.kill()?;
    child.wait()?;
    let (pss_kb, anonymous_kb) = found.with_context(|| program.name())?;
    Ok(Memory { program, pss_kb, anonymous_kb })
}

fn settle(child: &mut Child) -> Result<(u64, u64)> {
    let path = format!("/proc/{}/smaps", child.id());
    let start = Instant::now();
    let mut last = None;
    loop {
        thread::sleep(STILL);
        if let Some(status) = child.try_wait()? {
            bail!("ended before it was idle: {status}");
        }
        let smaps = fs::read_to_string(&path).with_context(|| path.clone())?;
        // Without RAM of that size it has not come so far yet.
        let found = beside_ram(&smaps, MIB * 1024);
        if found.is_some() && found == last {
            return found.context("nothing found");
        }
        ensure!(start.elapsed() < DEADLINE, "did not become idle in {} s", DEADLINE.as_secs());
        last = found;
    }
}

/// One mapping: its addresses, and what it holds in kB.
#[derive(Default)]
struct Mapping {
    range: Range<u64>,
    pss_kb: u64,
    anonymous_kb: u64,
}

/// Sums PSS and anonymous memory, in kB, of all mappings but guest RAM: neighbours that are `ram_kb` together, since
/// advice splits a mapping. None without such.
fn beside_ram(smaps: &str, ram_kb: u64) -> Option<(u64, u64)> {
    let mappings = parse(smaps);
    let ram = (0..mappings.len()).find_map(|first| {
        let mut end = mappings[first].range.start;
        let neighbours = mappings[first..].iter().take_while(|mapping| {
            let next_to = mapping.range.start == end;
            end = mapping.range.end;
            next_to
        });
        let start = mappings[first].range.start;
        let last = neighbours.take_while(|m| m.range.end - start <= ram_kb << 10).last()?;
        (last.range.end - start == ram_kb << 10).then_some(start..last.range.end)
    })?;
    let beside = mappings.iter().filter(|mapping| !ram.contains(&mapping.range.start));
    Some(beside.fold((0, 0), |(pss, anonymous), m| (pss + m.pss_kb, anonymous + m.anonymous_kb)))
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
        if let Some((start, end)) = key.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            mappings.push(Mapping { range: address(start)..address(end), ..Mapping::default() });
        } else if let Some(mapping) = mappings.last_mut() {
            let kb = || value.trim().strip_suffix(" kB").and_then(|n| n.trim().parse().ok()).unwrap_or(0);
            match key {
                "Pss:" => mapping.pss_kb = kb(),
                "Anonymous:" => mapping.anonymous_kb = kb(),
                _ => {}
            }
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_does_not_count() {
        let smaps = "00400000-00500000 r-xp 00000000 08:01 1 /jiffy\nSize: 1024 kB\nPss: 300 kB\nAnonymous: 0 kB\n\
                     7f0000000000-7f0008000000 rw-p 00000000 00:00 0\nSize:   131072 kB\nPss: 80 kB\nAnonymous: 80 kB\n\
                     7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]\nSize: 132 kB\nPss: 12 kB\nAnonymous: 12 kB\n";
        assert_eq!(beside_ram(smaps, 131_072), Some((312, 12)));
        assert_eq!(beside_ram(smaps, 131_073), None);
        let split = smaps.replace(
            "7f0000000000-7f0008000000 rw-p 00000000 00:00 0\n",
            "7f0000000000-7f0000200000 rw-p 00000000 00:00 0\nPss: 4 kB\nAnonymous: 4 kB\n\
             7f0000200000-7f0008000000 rw-p 00000000 00:00 0\n",
        );
        assert_eq!(beside_ram(&split, 131_072), Some((312, 12)));
    }
}
