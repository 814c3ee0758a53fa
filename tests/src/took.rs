//! What a guest's own clock says of work that a limit holds back, and of as much without one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use xtask::lab::StepReport;

/// For a guest's shell: `took NAME COMMAND…` says how many hundredths of a second a command took, if it succeeded.
pub const TOOK: &str = "now() { sed 's/ .*//; s/[.]//; s/^0*//' /proc/uptime; }; \
    took() { took=$1; shift; from=$(now); $@ >/dev/null 2>&1 && echo took $took $(($(now) - from)); }; ";

/// Each of `limited` (`NAME`, and the seconds that it takes at least by its limit alone, which no busy host makes fewer)
/// took that long; and the same without a limit, `free_NAME`, at best less than half, so that it was the limit.
pub fn look(report: &StepReport, limited: &[(&str, f64)]) -> Result<()> {
    let shown = String::from_utf8_lossy(&report.stdout);
    let mut all: BTreeMap<&str, f64> = BTreeMap::new();
    for line in shown.lines().filter_map(|line| line.trim_end().strip_prefix("took ")) {
        let (name, time) = line.split_once(' ').context("no time")?;
        let seconds = time.parse::<f64>()? / 100.0;
        all.entry(name).and_modify(|least| *least = least.min(seconds)).or_insert(seconds);
    }
    let took = |name: &str| all.get(name).copied().with_context(|| format!("{name} was not seen to end"));
    for &(name, least) in limited {
        let (limited, free) = (took(name)?, took(&format!("free_{name}"))?);
        // The clocks of guest and host need not agree to the last.
        ensure!(limited >= least * 0.95 - 0.02, "{name} took {limited} s, less than the limit's {least}");
        ensure!(free * 2.0 < limited, "{name} took {limited} s, and {free} s without a limit");
    }
    Ok(())
}
