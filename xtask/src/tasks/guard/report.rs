//! What was measured, as a table.

use std::fmt::Write as _;

use xtask::guard::measure::Measured;
use xtask::guard::scenario::Scenario;

/// Each phase of each scenario.
pub fn phases(measured: &Measured, scenarios: &[Scenario]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, measured, scenarios);
    text
}

fn write(to: &mut String, measured: &Measured, scenarios: &[Scenario]) -> std::fmt::Result {
    for name in scenarios.iter().map(Scenario::name) {
        writeln!(to, "{name}, instructions")?;
        for phase in &measured.scenarios[&name] {
            let costs: Vec<String> =
                phase.costs.iter().map(|(whose, count)| format!("{whose} {count}")).collect();
            let idle =
                if phase.idle > 1000 { format!(", and {} ns of waiting", phase.idle) } else { String::new() };
            writeln!(to, "  {:<10} {:>13}  {}{idle}", phase.name, phase.total(), costs.join(", "))?;
        }
    }
    Ok(())
}
