//! What `jiffy` says with `--timeline json`, as much of it as is used here.

use serde::Deserialize;

/// An event, and the time from the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub name: String,
    pub took_ns: u64,
}

#[derive(Deserialize)]
struct Timeline {
    rows: Vec<JsonRow>,
    lost_marks: usize,
}

#[derive(Deserialize)]
struct JsonRow {
    event: String,
    took_ns: u64,
    code: Option<u8>,
    name: Option<String>,
}

/// The events that were stamped: all rows but the last. None if marks were lost, for then they are not all.
pub(super) fn rows(said: &str) -> Option<Vec<Row>> {
    let line = said.lines().find(|line| line.starts_with('{'))?;
    let Timeline { mut rows, lost_marks: 0 } = serde_json::from_str(line).ok()? else { return None };
    rows.pop()?;
    let row = |JsonRow { event, took_ns, code, name }| Row {
        name: name.or(code.map(|code| format!("mark {code:#04x}"))).unwrap_or(event),
        took_ns,
    };
    Some(rows.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_names() {
        let rows_of = |lost: u8| {
            rows(&format!(
                "a warning\n{{\"origin_ns\":5,\"rows\":[{{\"event\":\"exec\",\"at_ns\":4,\"took_ns\":4,\"cpu_ns\":3}},\
                 {{\"event\":\"mark\",\"at_ns\":9,\"took_ns\":5,\"code\":32,\"name\":\"init\"}},\
                 {{\"event\":\"mark\",\"at_ns\":9,\"took_ns\":6,\"code\":128}},\
                 {{\"event\":\"unaccounted\",\"at_ns\":20,\"took_ns\":11}}],\"lost_marks\":{lost}}}\n"
            ))
        };
        let row = |name: &str, took_ns| Row { name: name.to_owned(), took_ns };
        assert_eq!(rows_of(0), Some(vec![row("exec", 4), row("init", 5), row("mark 0x80", 6)]));
        assert_eq!(rows_of(1), None);
        assert_eq!(rows("{}"), None);
    }
}
