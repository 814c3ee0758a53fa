//! The table.

use std::fmt::Write as _;

use super::Figures;
use super::native::Series;
use super::programs::Program;
use super::targets::Target;

/// Everything, for people.
pub fn text(figures: &Figures, targets: &[Target]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, figures, targets);
    text
}

fn write(to: &mut String, figures: &Figures, targets: &[Target]) -> std::fmt::Result {
    let series = &figures.native.series;
    if !series.is_empty() {
        writeln!(to, "Native, wall ms, best / median; x: best beside floor's\n")?;
        writeln!(to, "{:>9}  {:<20} {:>15} {:>6} {:>17}", "RAM", "", "exec -> mark", "x", "exec -> reaped")?;
    }
    let mut last = None;
    for one in series {
        let Series { program, memory_mib, mark_ms, reaped_ms } = one;
        let ram = if last == Some(memory_mib) { String::new() } else { format!("{memory_mib} MiB") };
        last = Some(memory_mib);
        let floor = series.iter().find(|s| s.program == Program::Floor && s.memory_mib == *memory_mib);
        let ratio = floor.map_or(f64::NAN, |f| mark_ms.best() / f.mark_ms.best());
        let mark = format!("{:.2} / {:.2}", mark_ms.best(), mark_ms.median());
        let reaped = format!("{:.2} / {:.2}", reaped_ms.best(), reaped_ms.median());
        writeln!(to, "{ram:>9}  {:<20} {mark:>15} {ratio:>6.2} {reaped:>17}", program.name())?;
    }
    if !figures.nested.is_empty() {
        writeln!(to, "\nNested, 128 MiB, millions of instructions\n")?;
        writeln!(to, "{:>9}  {:<20} {:>12} {:>8} {:>14}", "", "", "exec -> mark", "busy", "exec -> reaped")?;
    }
    for one in &figures.nested {
        let (mark, busy, reaped) = (one.mark, one.busy, one.reaped);
        writeln!(to, "{:>9}  {:<20} {mark:>12.3} {busy:>8.3} {reaped:>14.3}", "", one.program.name())?;
        for (name, busy) in &one.parts {
            writeln!(to, "{:>9}    {name:<18} {:>12} {busy:>8.3}", "", "")?;
        }
    }
    if !figures.memory.is_empty() {
        writeln!(to, "\nIdle, 128 MiB, beside guest RAM, kB\n")?;
        writeln!(to, "{:>9}  {:<20} {:>12} {:>10}", "", "", "PSS", "anonymous")?;
    }
    for one in &figures.memory {
        writeln!(to, "{:>9}  {:<20} {:>12} {:>10}", "", one.program.name(), one.pss_kb, one.anonymous_kb)?;
    }
    for why in &figures.native.left_out {
        writeln!(to, "\nLeft out: {why}")?;
    }
    writeln!(to, "\nTargets\n")?;
    for target in targets {
        let verdict = match target.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "-",
        };
        writeln!(to, "{verdict:>9}  {:<58} {:>14}", target.what, target.found)?;
    }
    Ok(())
}
