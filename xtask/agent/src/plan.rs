//! What is to be done, and what came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Steps, done one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Where the files are that steps name: `{kernel}` in a step's words stands for the value of `kernel` here.
    pub files: BTreeMap<String, String>,
    /// The steps.
    pub steps: Vec<Step>,
    /// Whether instructions are counted. Then a step begins right after a tick of the kernel's clock, and its events are
    /// told when it has ended: ticks, and the interrupts of the serial port that they are told through, take their
    /// instructions from whatever runs.
    pub exact: bool,
}

/// One command. In its words, `{out}` stands for a folder that is the step's own, `{origin}` for the time at
/// which it is started (nanoseconds of `CLOCK_MONOTONIC`), and `{NAME}` for a file of [`Plan::files`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Name in results.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment, added to the agent's own.
    pub env: Vec<(String, String)>,
    /// What the command reads.
    pub stdin: Stdin,
    /// What is done when the command has said something; in order, each once.
    pub reactions: Vec<Reaction>,
    /// After this many milliseconds the command and its process group are killed.
    pub deadline_ms: u64,
}

/// What a command reads from standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// Nothing: the end of the file at once.
    #[default]
    Empty,
    /// A pipe that stays open: fed by reactions, and by whoever runs the plan.
    Open,
}

/// Something done when the command's standard output has contained a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    /// The text that is waited for, in what was written after the previous reaction's.
    pub after: String,
    /// What is done then.
    pub act: Act,
}

/// What a [`Reaction`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Writes to the command's standard input.
    Write(Vec<u8>),
    /// Closes the command's standard input.
    Close,
    /// Sends a signal to the command.
    Signal(i32),
}

/// What happens while a step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The agent begins with the plan, at this time (nanoseconds of `CLOCK_MONOTONIC`).
    Ready(u64),
    /// The command was started.
    Begin,
    /// The command goes on: said every few seconds where time is not virtual.
    Alive,
    /// The command wrote to standard output.
    Stdout(Vec<u8>),
    /// The command wrote to standard error.
    Stderr(Vec<u8>),
    /// A file that the command left in `{out}`: its path there, and its bytes.
    File(String, Vec<u8>),
    /// The step is over.
    End(StepEnd),
    /// The plan is done.
    Done,
    /// The other way, to the agent: bytes for the command's standard input; none closes it.
    Stdin(Vec<u8>),
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEnd {
    /// How the command ended.
    pub status: Status,
    /// When it was started: nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// When it was reaped: nanoseconds of `CLOCK_MONOTONIC`.
    pub ended_ns: u64,
    /// Processor time of the command and of what it waited for, user and system, in microseconds.
    pub cpu_us: u64,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Signaled(i32),
    /// It was killed at its deadline.
    TimedOut,
    /// It could not be started: why.
    NotStarted(String),
}
