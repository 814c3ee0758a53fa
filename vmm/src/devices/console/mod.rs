//! The console's other end: output that never holds a vCPU up, input from a terminal or a pipe.

mod escape;
mod input;
mod output;
mod sink;
mod terminal;

pub use input::{InputPort, InputPump};
pub use output::{ConsoleOutput, OutputPump};
pub use sink::Sink;
pub use terminal::{Terminal, restore_on_panic};
