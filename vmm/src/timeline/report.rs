//! What a timeline tells: consecutive rows that together are all the time from the origin to the end.

use super::{Stamp, Step};
use abi::timeline::Mark;
use serde::{Serialize, Serializer};

/// What a row ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Our first instruction, where the parent gave a stamp from before it.
    Exec,
    /// A step of the VMM.
    Step(Step),
    /// A mark of the guest.
    Mark(Mark),
    /// The end of the record: time that belongs to no event.
    Unaccounted,
}

/// One event, and the time from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What happened.
    pub event: Event,
    /// When: nanoseconds since the origin.
    pub at_ns: u64,
    /// Nanoseconds since the row before.
    pub took_ns: u64,
    /// How many of these the thread that stamped the event was working on a CPU; the others it waited. Unknown
    /// where the row before was stamped by another thread.
    pub cpu_ns: Option<u64>,
}

/// All rows, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The origin: nanoseconds of `CLOCK_MONOTONIC`.
    pub origin_ns: u64,
    /// The rows; the last is [`Event::Unaccounted`].
    pub rows: Vec<Row>,
    /// Marks that came after [`super::MAX_MARKS`] others and were not kept.
    pub lost_marks: usize,
}

impl Report {
    /// `begin` is the parent's stamp and the stamp of our first act; `events` may be in any order.
    pub(super) fn new(
        begin: (Option<u64>, Stamp),
        mut events: Vec<(Event, Stamp)>,
        end: u64,
        lost_marks: usize,
    ) -> Self {
        let (parent, start) = begin;
        let origin_ns = parent.unwrap_or(start.at);
        let mut rows = Vec::with_capacity(events.len() + 2);
        let mut last = start;
        if parent.is_some() {
            let took_ns = start.at - origin_ns;
            let cpu_ns = Some(start.cpu.min(took_ns));
            rows.push(Row { event: Event::Exec, at_ns: took_ns, took_ns, cpu_ns });
        }
        events.sort_by_key(|(_, stamp)| stamp.at);
        let mut threads = vec![start.thread];
        for (event, stamp) in events {
            let took_ns = stamp.at.saturating_sub(last.at);
            let cpu_ns = if stamp.thread == last.thread {
                Some(stamp.cpu.saturating_sub(last.cpu))
            } else if matches!(event, Event::Step(_)) && !threads.contains(&stamp.thread) {
                // A thread that shows up first was made in this row: all its time is.
                Some(stamp.cpu)
            } else {
                None
            };
            rows.push(Row {
                event,
                at_ns: stamp.at.saturating_sub(origin_ns),
                took_ns,
                // The two clocks are read one after the other, and may differ by a little.
                cpu_ns: cpu_ns.map(|cpu| cpu.min(took_ns)),
            });
            threads.push(stamp.thread);
            last = stamp;
        }
        let end = end.max(last.at);
        rows.push(Row {
            event: Event::Unaccounted,
            at_ns: end - origin_ns,
            took_ns: end - last.at,
            cpu_ns: None,
        });
        Self { origin_ns, rows, lost_marks }
    }

    /// All the time that the rows cover, in nanoseconds.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.at_ns)
    }
}

impl Event {
    /// The event's name in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Step(step) => match step {
                Step::ConfigRead => "config-read",
                Step::KvmOpened => "kvm-opened",
                Step::MemoryMapped => "memory-mapped",
                Step::KernelLoaded { .. } => "kernel-loaded",
                Step::VcpusReady => "vcpus-ready",
                Step::FirstRun => "first-run",
                Step::GuestStopped => "guest-stopped",
                Step::VmDestroyed => "vm-destroyed",
            },
            Self::Mark(_) => "mark",
            Self::Unaccounted => "unaccounted",
        }
    }
}

/// A row in JSON: `event`, `at_ns`, `took_ns`, and where they are known `cpu_ns`, `bytes` (of a kernel) and the
/// `code` and `name` of a mark.
#[derive(Serialize)]
struct JsonRow {
    event: &'static str,
    at_ns: u64,
    took_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { event, at_ns, took_ns, cpu_ns } = *self;
        let bytes = if let Event::Step(Step::KernelLoaded { bytes }) = event { Some(bytes) } else { None };
        let mark = if let Event::Mark(mark) = event { Some(mark) } else { None };
        JsonRow {
            event: event.name(),
            at_ns,
            took_ns,
            cpu_ns,
            bytes,
            code: mark.map(|mark| mark.0),
            name: mark.and_then(Mark::name),
        }
        .serialize(serializer)
    }
}
