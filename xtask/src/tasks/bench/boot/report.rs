//! Boots as tables: one column each.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use xtask::profile::Code;

use super::{Boot, Function};

/// The times, the phases, and the functions of each kernel's boot that take most.
pub fn text(boots: &[Boot], symbols: usize) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = times(&mut text, boots);
    let _ = phases(&mut text, boots);
    let same_kernel = boots.chunk_by(|one, other| one.kernel == other.kernel);
    for boots in same_kernel.filter(|_| symbols > 0) {
        let _ = functions(&mut text, boots, symbols);
    }
    text
}

/// Of less, there is only a zero to be seen.
const SHOWN: u64 = 500;

fn millions(instructions: u64) -> f64 {
    instructions as f64 / 1e6
}

fn times(to: &mut String, boots: &[Boot]) -> std::fmt::Result {
    writeln!(
        to,
        "\n{:>9}  {:<8} {:>14} {:>14} {:>10}",
        "RAM", "kernel", "exec -> guest", "guest -> init", "of it busy"
    )?;
    for boot in boots {
        let Boot { memory_mib, times, .. } = boot;
        writeln!(
            to,
            "{memory_mib:>5} MiB  {:<8} {:>14.3} {:>14.3} {:>10.3}",
            boot.name(),
            times.vmm,
            times.guest,
            times.guest_busy
        )?;
    }
    Ok(())
}

fn head(to: &mut String, boots: &[Boot], title: &str) -> std::fmt::Result {
    writeln!(to)?;
    for boot in boots {
        write!(to, "{:>14}", format!("{} {}M", boot.name(), boot.memory_mib))?;
    }
    writeln!(to, "  {title}")
}

/// All that was executed in each phase, and by whom.
fn phases(to: &mut String, boots: &[Boot]) -> std::fmt::Result {
    head(to, boots, "by phase: all that was executed from the event before to")?;
    let first = boots.first().map_or(&[][..], |boot| &boot.phases);
    for phase in first {
        let of = |boot: &Boot, wanted: Option<Code>| -> u64 {
            let same = boot.phases.iter().filter(|known| known.to == phase.to);
            let functions = same.flat_map(|known| &known.functions);
            functions.filter(|f| wanted.is_none_or(|code| f.code == code)).map(|f| f.instructions).sum()
        };
        let mut row = |name: &str, code: Option<Code>| -> std::fmt::Result {
            for boot in boots {
                write!(to, "{:>14.3}", millions(of(boot, code)))?;
            }
            writeln!(to, "  {name}")
        };
        row(&phase.to, None)?;
        let mut codes: Vec<Code> = phase.functions.iter().map(|function| function.code).collect();
        codes.sort();
        codes.dedup();
        for code in codes.into_iter().filter(|code| boots.iter().any(|boot| of(boot, Some(*code)) >= SHOWN)) {
            row(&format!("    {}", code.name()), Some(code))?;
        }
    }
    Ok(())
}

/// What takes most from exec to init, most by its largest boot.
fn functions(to: &mut String, boots: &[Boot], shown: usize) -> std::fmt::Result {
    head(to, boots, "by symbol, from exec to init")?;
    let mut rows: BTreeMap<(Code, &str), Vec<u64>> = BTreeMap::new();
    for (column, boot) in boots.iter().enumerate() {
        for Function { code, name, instructions } in boot.phases.iter().flat_map(|phase| &phase.functions) {
            rows.entry((*code, name)).or_insert_with(|| vec![0; boots.len()])[column] += instructions;
        }
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|(function, counts)| (Reverse(counts.iter().max().copied()), *function));
    let rest = rows.split_off(shown.min(rows.len()));
    let mut row = |counts: &[u64], name: String| -> std::fmt::Result {
        for count in counts {
            write!(to, "{:>14.3}", millions(*count))?;
        }
        writeln!(to, "  {name}")
    };
    for ((code, name), counts) in &rows {
        row(counts, format!("{}: {name}", code.name()))?;
    }
    let sums: Vec<u64> =
        (0..boots.len()).map(|column| rest.iter().map(|(_, counts)| counts[column]).sum()).collect();
    row(&sums, format!("{} others", rest.len()))
}

#[cfg(test)]
mod tests {
    use super::super::{Phase, Times};
    use super::*;

    #[test]
    fn tables_have_a_column_for_each_boot() {
        let function =
            |code, name: &str, instructions| Function { code, name: name.to_owned(), instructions };
        let boot = |memory_mib, grows| Boot {
            kernel: "fast".into(),
            memory_mib,
            seed: 1,
            times: Times { vmm: 1.5, guest: 25.0, guest_busy: 24.0 },
            phases: vec![
                Phase { to: "exec".to_owned(), functions: vec![function(Code::Vmm, "start", 2_000)] },
                Phase {
                    to: "init".to_owned(),
                    functions: vec![
                        function(Code::Vmm, "start", 3_000),
                        function(Code::GuestKernel, "memmap_init", grows),
                        function(Code::GuestKernel, "tiny", 1_000),
                        function(Code::Init, "unseen", 10),
                    ],
                },
            ],
        };
        let text = text(&[boot(128, 1_000_000), boot(512, 4_000_000)], 2);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(
            lines,
            [
                "      RAM  kernel    exec -> guest  guest -> init of it busy",
                "  128 MiB  fast              1.500         25.000     24.000",
                "  512 MiB  fast              1.500         25.000     24.000",
                "     fast 128M     fast 512M  by phase: all that was executed from the event before to",
                "         0.002         0.002  exec",
                "         0.002         0.002      jiffy",
                "         1.004         4.004  init",
                "         0.003         0.003      jiffy",
                "         1.001         4.001      guest kernel",
                "     fast 128M     fast 512M  by symbol, from exec to init",
                "         1.000         4.000  guest kernel: memmap_init",
                "         0.005         0.005  jiffy: start",
                "         0.001         0.001  2 others",
            ]
        );
        assert!(!super::text(&[boot(128, 1)], 0).contains("symbol"));
    }
}
