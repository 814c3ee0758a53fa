//! What a VMM holds beside its guest's RAM while the guest does nothing.

use std::fs;
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

/// Sums PSS and anonymous memory, in kB, of all mappings but guest RAM: the one of `ram_kb`. None without such a one.
fn beside_ram(smaps: &str, ram_kb: u64) -> Option<(u64, u64)> {
    let (mut pss, mut anonymous, mut size, mut ram) = (0, 0, 0, false);
    for line in smaps.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let kb = || value.trim().strip_suffix(" kB").and_then(|n| n.trim().parse().ok()).unwrap_or(0);
        match key {
            "Size" => {
                size = kb();
                ram |= size == ram_kb;
            }
            "Pss" if size != ram_kb => pss += kb(),
            "Anonymous" if size != ram_kb => anonymous += kb(),
            _ => {}
        }
    }
    ram.then_some((pss, anonymous))
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
    }
}
