//! A scenario's phases as a picture: bars, each of which begins where the one above ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::budget::in_order;
use super::phase::{Costs, Whose};

/// Sizes in user units, which browsers take for pixels.
const LINE: usize = 22;
const TOP: usize = 56;
const LABELS: usize = 84;
const BARS: usize = 590;
const WIDTH: usize = 760;

/// The picture as SVG. Colours are chosen by the reader's scheme, light or dark.
pub fn draw(title: &str, phases: &BTreeMap<String, Costs>) -> String {
    let rows: Vec<_> = in_order(phases).collect();
    let total: u64 = rows.iter().flat_map(|(_, costs)| costs.values()).sum();
    let height = TOP + LINE * rows.len() + 34;
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut svg, title, &rows, total.max(1), height);
    svg
}

fn write(
    svg: &mut String,
    title: &str,
    rows: &[(&str, &Costs)],
    total: u64,
    height: usize,
) -> std::fmt::Result {
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{title}\">"
    )?;
    svg.push_str(STYLE);
    writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" class=\"page\"/>")?;
    writeln!(svg, "<text x=\"8\" y=\"20\" class=\"title\">{title}: millions of instructions</text>")?;
    let x = |at: u64| LABELS as f64 + BARS as f64 * at as f64 / total as f64;
    let bottom = TOP + LINE * rows.len() - 4;
    for tick in (0..=total).step_by(step(total)) {
        let (x, label) = (x(tick), tick as f64 / 1e6);
        writeln!(svg, "<path d=\"M{x:.1} {}V{bottom}\"/>", TOP - 6)?;
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" class=\"tick\">{label}</text>", TOP - 12)?;
    }
    let mut at = 0;
    for (index, (name, costs)) in rows.iter().enumerate() {
        let y = TOP + LINE * index;
        let sum: u64 = costs.values().sum();
        writeln!(svg, "<text x=\"8\" y=\"{}\">{name}</text>", y + 12)?;
        for (whose, count) in *costs {
            // Too thin bars are shown all the same: what is small here may be ours.
            let width = (x(at + count) - x(at)).max(1.0);
            writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"16\" class=\"{whose}\"/>",
                x(at)
            )?;
            at += count;
        }
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" class=\"number\">{}</text>",
            WIDTH - 8,
            y + 12,
            millions(sum)
        )?;
    }
    let y = TOP + LINE * rows.len() + 18;
    let mut left = 8;
    for whose in Whose::ALL.iter().filter(|whose| rows.iter().any(|(_, costs)| costs.contains_key(whose))) {
        writeln!(svg, "<rect x=\"{left}\" y=\"{}\" width=\"12\" height=\"12\" class=\"{whose}\"/>", y - 10)?;
        writeln!(svg, "<text x=\"{}\" y=\"{y}\">{whose}</text>", left + 18)?;
        left += 90;
    }
    writeln!(svg, "<text x=\"{}\" y=\"{y}\" class=\"number\">{} in all</text>", WIDTH - 8, millions(total))?;
    writeln!(svg, "</svg>")
}

/// From one line of the grid to the next: a number that begins with 1, 2 or 5, so that there are few of them.
fn step(total: u64) -> usize {
    let tens = 10_usize.pow(total.max(1).ilog10().saturating_sub(1));
    let steps = [1, 2, 5, 10, 20].map(|digit| digit * tens);
    steps.into_iter().find(|step| total / *step as u64 <= 6).unwrap_or(tens)
}

/// Instructions in millions, with three digits that count.
pub fn millions(count: u64) -> String {
    let millions = count as f64 / 1e6;
    match count {
        0..10_000_000 => format!("{millions:.3}"),
        10_000_000..100_000_000 => format!("{millions:.2}"),
        _ => format!("{millions:.1}"),
    }
}

/// A background of its own: what shows a picture as part of a page need not ask for the page's scheme.
const STYLE: &str = "<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.number { text-anchor: end; font-variant-numeric: tabular-nums }
.tick { text-anchor: middle; font-size: 11px; fill: #59636e }
.page { fill: #ffffff } path { stroke: #d1d9e0 }
.jiffy { fill: #cf5c00 } .init { fill: #b3247a } .firmware { fill: #1a7f37 }
.host { fill: #7d8590 } .guest { fill: #1a6fc4 } .exits { fill: #7fb2e5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.tick { fill: #9198a1 }
.page { fill: #0d1117 } path { stroke: #30363d }
.jiffy { fill: #ff9a4d } .init { fill: #f27dc0 } .firmware { fill: #4ac26b }
.host { fill: #8d96a0 } .guest { fill: #58a6ff } .exits { fill: #3a73b3 }
}
</style>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_follow_each_other() {
        let phases = BTreeMap::from([
            ("kernel".to_owned(), Costs::from([(Whose::Guest, 7_500_000)])),
            ("exec".to_owned(), Costs::from([(Whose::Jiffy, 500_000), (Whose::Host, 2_000_000)])),
        ]);
        let svg = draw("fast-x", &phases);
        let bars: Vec<&str> = svg.lines().filter(|line| line.contains("height=\"16\"")).collect();
        assert_eq!(
            bars,
            [
                "<rect x=\"84.0\" y=\"56\" width=\"29.5\" height=\"16\" class=\"jiffy\"/>",
                "<rect x=\"113.5\" y=\"56\" width=\"118.0\" height=\"16\" class=\"host\"/>",
                "<rect x=\"231.5\" y=\"78\" width=\"442.5\" height=\"16\" class=\"guest\"/>"
            ]
        );
        assert!(svg.contains(">10.00 in all<") && svg.contains("prefers-color-scheme: dark"));
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
        assert_eq!(svg.matches("class=\"tick\"").count(), 6, "from 0 to 10 by 2");
    }

    #[test]
    fn grids_are_neither_empty_nor_crowded() {
        for total in [1, 9, 10, 99, 1_484_000, 37_520_000, 65_000_000, 1_508_500_000] {
            assert!((1..=6).contains(&(total / step(total) as u64)), "{total}");
        }
    }
}
