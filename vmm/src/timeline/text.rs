//! A report as a table with bars.

use super::{Event, Report, Row, Step};
use std::fmt::Write;

/// How a table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Draw with ASCII alone.
    pub ascii: bool,
}

impl Style {
    /// What bars are made of: working, waiting, and time of which it is not known.
    fn fills(self) -> [char; 3] {
        if self.ascii { ['#', '-', '='] } else { ['█', '░', '▒'] }
    }
}

impl Report {
    /// The table: one line a row, times in milliseconds, bars to one scale; a line for the total and one that
    /// explains the bars. Narrow terminals get shorter bars, but never fewer than eight columns of them.
    #[must_use]
    pub fn to_text(&self, style: Style) -> String {
        let labels: Vec<String> = self.rows.iter().map(|row| label(row.event)).collect();
        let label_width = labels.iter().map(String::len).max().unwrap_or(0).max("total".len());
        let number_width = ms(self.total_ns()).len().max("working".len()) + 2;
        let columns = label_width + 4 * number_width + 2;
        let bar_width = style.width.min(100).saturating_sub(columns).max(8);
        let [working, waiting, unknown] = style.fills();

        let mut text = String::new();
        let mut line = |label: &str, cells: [&str; 4], bar: &str| {
            let mut line = format!("{label:<label_width$}");
            for cell in cells {
                let _ = write!(line, "{cell:>number_width$}");
            }
            let _ = write!(line, "  {bar}");
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line("boot timeline", ["at ms", "took", "working", "waiting"], "");
        for (row, label) in self.rows.iter().zip(&labels) {
            let waited = row.cpu_ns.map(|cpu| row.took_ns - cpu.min(row.took_ns));
            let [cpu, waited] = [row.cpu_ns, waited].map(|ns| ns.map_or("?".into(), ms));
            let bar = bar(row, self.total_ns(), bar_width, style);
            line(label, [&ms(row.at_ns), &ms(row.took_ns), &cpu, &waited], &bar);
        }
        let legend = format!("{working} working  {waiting} waiting  {unknown} not known");
        line("total", [&ms(self.total_ns()), "", "", ""], "");
        text.push_str(&legend);
        text.push('\n');
        if self.lost_marks > 0 {
            let _ = writeln!(text, "{} further marks of the guest were not kept", self.lost_marks);
        }
        text
    }
}

fn label(event: Event) -> String {
    match event {
        Event::Exec => "process started".into(),
        Event::Step(step) => match step {
            Step::ConfigRead => "config read".into(),
            Step::KvmOpened => "KVM opened".into(),
            Step::MemoryMapped => "memory mapped".into(),
            Step::KernelLoaded { bytes } => format!("kernel loaded ({})", size(bytes)),
            Step::VcpusReady => "vCPUs ready".into(),
            Step::FirstRun => "first KVM_RUN entered".into(),
            Step::GuestStopped => "guest stopped".into(),
            Step::VmDestroyed => "VM destroyed".into(),
        },
        Event::Mark(mark) => match mark.name() {
            Some(name) => format!("  {name}"),
            None => format!("  mark {:#04x}", mark.0),
        },
        Event::Unaccounted => "not accounted for".into(),
    }
}

fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1000 % 1000)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

/// Stands where the row's time is between 0 and `total`; at least one column for each row that took time.
fn bar(row: &Row, total: u64, width: usize, style: Style) -> String {
    if row.took_ns == 0 {
        return String::new();
    }
    let [working, waiting, unknown] = style.fills();
    // The product stays within 128 bits; the quotient is at most `width`.
    let column = |ns: u64| (u128::from(ns) * width as u128 / u128::from(total.max(1))) as usize;
    let first = column(row.at_ns - row.took_ns).min(width - 1);
    let len = column(row.at_ns).saturating_sub(first).max(1);
    let mut bar = " ".repeat(first);
    match row.cpu_ns {
        None => bar.extend(std::iter::repeat_n(unknown, len)),
        Some(cpu) => {
            let share = u128::from(cpu) * len as u128 + u128::from(row.took_ns / 2);
            let busy = ((share / u128::from(row.took_ns)) as usize).min(len);
            bar.extend(std::iter::repeat_n(working, busy));
            bar.extend(std::iter::repeat_n(waiting, len - busy));
        }
    }
    bar
}
