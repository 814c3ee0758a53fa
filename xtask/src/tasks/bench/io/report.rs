//! The table.

use anyhow::Result;
use serde::Serialize;

use super::{Figure, Figures, Part, System};

/// Prints a part's figures in thousands of instructions with exits behind them, how they stand to QEMU's, and what is to
/// be reached.
pub(super) fn print(part: &Part, systems: &[System], figures: &Figures) {
    println!("\n{}: thousands of instructions for each request, all levels together (exits)\n", part.name);
    let head: String = systems.iter().map(|system| format!("{:>16}", system.name())).collect();
    println!("{:<26}{head}{:>18}{:>14}", "", "of QEMU's cost", "to reach");
    for case in part.cases {
        let figure = |system: System| figures.get(&(part.name, case.id, system)).copied();
        if !systems.iter().any(|&system| figure(system).is_some()) {
            continue;
        }
        let cells: String = systems
            .iter()
            .map(|&system| format!("{:>16}", figure(system).map_or_else(String::new, cell)))
            .collect();
        let thousands = |system| Some(figure(system)?.instructions as f64 / 1e3);
        let qemu = thousands(System::Qemu).or_else(|| thousands(System::QemuPci));
        let share = |system| share(thousands(system)?, thousands(System::Limit)?, qemu?);
        let shares: Vec<String> = [System::Mmio, System::Pci]
            .into_iter()
            .filter_map(share)
            .map(|share| if share > 0.0 { format!("{share:.2}") } else { "none".to_owned() })
            .collect();
        let target = case.target.map_or_else(String::new, |(mmio, pci)| format!("{mmio:.0} / {pci:.0}"));
        println!("{:<26}{cells}{:>18}{target:>14}", case.label, shares.join(" / "));
    }
    println!(
        "\nof QEMU's cost: (ours - limit) / (QEMU - limit), QEMU's by mmio if it has both, mmio / pci; to reach: 0.50, and the last column"
    );
}

/// One load on one system, for programs.
#[derive(Serialize)]
struct Row {
    part: &'static str,
    case: &'static str,
    system: System,
    #[serde(flatten)]
    figure: Figure,
}

/// Prints a part's figures, one JSON object each.
pub(super) fn json(part: &Part, figures: &Figures) -> Result<()> {
    for (&(name, case, system), &figure) in figures.iter().filter(|((name, ..), _)| *name == part.name) {
        println!("{}", serde_json::to_string(&Row { part: name, case, system, figure })?);
    }
    Ok(())
}

fn cell(figure: Figure) -> String {
    let exits = figure.exits.map_or_else(String::new, |exits| format!(" ({exits:.2})"));
    format!("{:.2}{exits:>8}", figure.instructions as f64 / 1e3)
}

/// What we add to the limit, as a share of what QEMU adds.
fn share(ours: f64, limit: f64, qemu: f64) -> Option<f64> {
    (qemu > limit).then(|| (ours - limit) / (qemu - limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!(share(30.0, 10.0, 50.0), Some(0.5));
        assert_eq!(share(30.0, 10.0, 10.0), None);
    }
}
