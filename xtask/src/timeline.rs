//! What `jiffy` says with `--timeline json`.

use std::fmt;

use abi::timeline::Mark;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// An event, and the time from the one before.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Row {
    /// Its name: that of a step of `jiffy`'s, or `mark` for a guest's.
    pub event: String,
    /// Nanoseconds from the start of the timeline.
    pub at_ns: u64,
    /// Nanoseconds since the event before.
    pub took_ns: u64,
    /// CPU time of it, where the timeline says so, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Of a mark: which.
    pub code: Option<u8>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Timeline {
    rows: Vec<Row>,
    lost_marks: usize,
}

/// The timeline among what `jiffy` said on standard error: all events, without the last row, which belongs to none.
/// An error if marks were lost, for then they are not all.
pub fn read(said: &str) -> Result<Vec<Row>> {
    let line =
        said.lines().find(|line| line.starts_with('{')).with_context(|| format!("no timeline in: {said}"))?;
    let Timeline { mut rows, lost_marks } = serde_json::from_str(line).context("no timeline of jiffy's")?;
    ensure!(lost_marks == 0, "the timeline lost {lost_marks} marks");
    ensure!(rows.pop().is_some(), "an empty timeline");
    Ok(rows)
}

/// The first entry into the guest.
pub fn first_run(rows: &[Row]) -> Result<&Row> {
    rows.iter().find(|row| row.event == "first-run").context("the guest was not entered")
}

/// The first mark of the guest's that is this one.
pub fn mark(rows: &[Row], mark: Mark) -> Result<&Row> {
    rows.iter().find(|row| row.mark() == Some(mark)).with_context(|| format!("no mark {:#04x}", mark.0))
}

impl Row {
    /// The guest's mark, if it is one.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.code.filter(|_| self.event == "mark").map(Mark)
    }

    /// A name that tells it from others: of a mark, its meaning or number.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.name, self.code) {
            (Some(name), _) => name.clone(),
            (None, Some(code)) => format!("mark {code:#04x}"),
            (None, None) => self.event.clone(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ns", self.name(), self.took_ns)?;
        self.cpu_ns.map_or(Ok(()), |cpu| write!(f, ", working for {cpu}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lost: u8) -> String {
        let rows = [
            r#"{"event":"exec","at_ns":4,"took_ns":4,"cpu_ns":3}"#,
            r#"{"event":"first-run","at_ns":5,"took_ns":1}"#,
            r#"{"event":"mark","at_ns":9,"took_ns":4,"cpu_ns":3,"code":32,"name":"init"}"#,
            r#"{"event":"mark","at_ns":15,"took_ns":6,"code":128}"#,
            r#"{"event":"unaccounted","at_ns":26,"took_ns":11}"#,
        ];
        let rows = rows.join(",");
        format!("a warning\n{{\"origin_ns\":5,\"rows\":[{rows}],\"lost_marks\":{lost}}}\n")
    }

    #[test]
    fn events_have_names_and_times() {
        let rows = read(&said(0)).unwrap();
        let names: Vec<_> = rows.iter().map(|row| (row.name(), row.took_ns)).collect();
        let expected = [("exec", 4), ("first-run", 1), ("init", 4), ("mark 0x80", 6)];
        assert_eq!(names, expected.map(|(name, took)| (name.to_owned(), took)));
        assert_eq!(first_run(&rows).unwrap().at_ns, 5);
        assert_eq!(mark(&rows, Mark::INIT_START).unwrap().to_string(), "init: 4 ns, working for 3");
        assert_eq!(mark(&rows, Mark::USER).unwrap().at_ns, 15);
        assert!(mark(&rows, Mark::WORKLOAD_END).is_err());
    }

    #[test]
    fn what_is_no_whole_timeline_is_an_error() {
        assert!(read(&said(1)).is_err());
        assert!(read("{}").is_err());
        assert!(read("nothing").unwrap_err().to_string().contains("nothing"));
    }
}
