//! What `jiffy` is to reach, and whether it does.

use serde::Serialize;

use super::Figures;
use super::native::{SIZES, Series};
use super::programs::Program;

/// One promise beside what was found.
#[derive(Debug, Serialize)]
pub struct Target {
    pub what: &'static str,
    pub found: String,
    /// None where nothing was measured.
    pub met: Option<bool>,
}

impl Target {
    /// `found` is to be at most `limit`, both in `unit`.
    fn at_most(what: &'static str, found: Option<f64>, limit: f64, unit: &str) -> Self {
        let shown = found.map_or_else(|| "not measured".into(), |f| format!("{f:.2} {unit}"));
        Self { what, found: shown, met: found.map(|f| f <= limit) }
    }
}

/// Judges all targets by the best of the runs.
pub fn judge(figures: &Figures) -> Vec<Target> {
    let of = |program, mib| {
        figures.native.series.iter().find(move |s| s.program == program && s.memory_mib == mib)
    };
    let small = |program| of(program, SIZES[0]);
    let ratio = |a: Option<&Series>, b: Option<&Series>| Some(a?.mark_ms.best() / b?.mark_ms.best());
    let over = |mib| Some(of(Program::Jiffy, mib)?.mark_ms.best() - of(Program::Floor, mib)?.mark_ms.best());
    let end_over =
        |mib| Some(of(Program::Jiffy, mib)?.reaped_ms.best() - of(Program::Floor, mib)?.reaped_ms.best());
    let overs: Option<Vec<f64>> = SIZES.into_iter().map(over).collect();
    let spread = overs
        .map(|o| o.iter().copied().fold(f64::MIN, f64::max) - o.iter().copied().fold(f64::MAX, f64::min));
    let ends: Option<Vec<f64>> = SIZES.into_iter().map(end_over).collect();
    let worst_end = ends.map(|e| e.into_iter().fold(f64::MIN, f64::max));
    let (floor, jiffy) = (small(Program::Floor), small(Program::Jiffy));
    let memory = figures.memory.iter().find(|m| m.program == Program::Jiffy);
    let nested = figures.nested.iter().find(|s| s.program == Program::Jiffy);
    let times_qemu = ratio(small(Program::Qemu), jiffy);
    vec![
        Target::at_most("floor to mark within 5 % of C", ratio(floor, small(Program::FloorC)), 1.05, "x"),
        Target::at_most("to mark, 128 MiB: at most 1.5 x floor", ratio(jiffy, floor), 1.5, "x"),
        Target::at_most("to mark - floor: alike at all sizes of RAM, within 0.1 ms", spread, 0.1, "ms"),
        Target::at_most("to reaped: at most floor + 1 ms", worst_end, 1.0, "ms"),
        Target {
            what: "to mark: at least 15 x faster than QEMU microvm",
            found: times_qemu.map_or_else(|| "not measured".into(), |f| format!("{f:.1} x")),
            met: times_qemu.map(|f| f >= 15.0),
        },
        Target::at_most("nested, to mark: at most 1.5 Minstr busy", nested.map(|s| s.busy), 1.5, "Minstr"),
        Target::at_most(
            "idle: at most 2.5 MB PSS beside RAM",
            memory.map(|m| m.pss_kb as f64 / 1000.0),
            2.5,
            "MB",
        ),
        Target::at_most(
            "idle: at most 0.5 MB anonymous",
            memory.map(|m| m.anonymous_kb as f64 / 1000.0),
            0.5,
            "MB",
        ),
        Target::at_most(
            "size: at most 3 MiB",
            Some(figures.jiffy_bytes as f64 / f64::from(1 << 20)),
            3.0,
            "MiB",
        ),
    ]
}
