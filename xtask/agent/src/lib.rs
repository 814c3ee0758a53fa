//! Runs a [`Plan`], a list of steps, and reports [`Event`]s. The same code runs on the host (as a library) and
//! inside a lab (as the program `lab-agent`, with the events framed on a serial port; see [`frame`]).

pub mod frame;
mod hung;
mod plan;
mod run;

pub use plan::{Act, Event, Plan, Reaction, Status, Stdin, Step, StepEnd};
pub use run::{Input, Sink, close, feed, monotonic_ns, run};
