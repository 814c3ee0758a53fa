//! What the threads of a command do that does not end: whether they wait, or go round in circles.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use rustix::param::clock_ticks_per_second;
use rustix::process::Pid;

/// For how long they are watched.
const WATCHED: Duration = Duration::from_secs(1);

/// A thread, from `/proc/PID/task/TID/stat`; `/proc/TID/stat` has the times of all of its process.
struct Thread {
    name: String,
    state: char,
    group: i32,
    /// Processor time so far.
    ticks: u64,
}

/// A line for each thread of a process group, with its state and the processor time of the second that this takes.
pub fn watch(group: Pid) -> String {
    let before = threads(group);
    thread::sleep(WATCHED);
    let mut lines = String::new();
    for (id, thread) in threads(group) {
        let ticks = before.get(&id).map_or(0, |before| thread.ticks.saturating_sub(before.ticks));
        let ms = ticks * 1000 / clock_ticks_per_second().max(1);
        // Writing to a string cannot fail.
        let _ = writeln!(
            lines,
            "at the deadline: {} ({id}) {}, {ms} ms busy in a second",
            thread.name, thread.state
        );
    }
    lines
}

/// The threads of a process group by their IDs. What ends meanwhile is left out.
fn threads(group: Pid) -> BTreeMap<u32, Thread> {
    let tasks =
        numbers(Path::new("/proc")).map(|process| Path::new("/proc").join(process.to_string()).join("task"));
    let all =
        tasks.flat_map(|tasks| numbers(&tasks).map(move |id| (id, tasks.join(id.to_string()).join("stat"))));
    let described = all.filter_map(|(id, stat)| Some((id, parse(&fs::read_to_string(stat).ok()?)?)));
    described.filter(|(_, thread)| thread.group == group.as_raw_pid()).collect()
}

/// The folders in `folder` whose names are numbers.
fn numbers(folder: &Path) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// proc(5), `/proc/PID/stat`: the name is in parentheses and may have some itself.
fn parse(stat: &str) -> Option<Thread> {
    let (before, after) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Thread {
        name: before.split_once('(')?.1.to_owned(),
        state: fields.first()?.chars().next()?,
        group: fields.get(2)?.parse().ok()?,
        ticks: ticks(11)? + ticks(12)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc() {
        let stat = "77 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 5 0 0";
        let thread = parse(stat).unwrap();
        assert_eq!(
            (thread.name.as_str(), thread.state, thread.group, thread.ticks),
            ("a (b) c", 'S', 42, 42)
        );
        assert!(parse("77 (a) S").is_none());
    }
}
