//! What happens when standard output cannot be written: `print!` panics then, and the panic is no fault of ours.

use std::any::Any;

/// What a shell says of a program that SIGPIPE ended (128 + 13), as it ends others in front of `| head`.
pub const READER_GONE: u8 = 141;

/// Why something could not be printed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Whoever reads has seen enough (`| head`).
    ReaderGone,
    /// Which stream, and what was wrong with it, for people.
    Other(String),
}

/// What a panic was about, if it is that of `print!` or of one of its like. It ends us, with all that runs for us,
/// which a signal would not.
pub fn failure(panic: &(dyn Any + Send)) -> Option<Failure> {
    let said = panic.downcast_ref::<String>()?.strip_prefix("failed printing to std")?;
    if said.contains("Broken pipe") {
        return Some(Failure::ReaderGone);
    }
    let (stream, why) = said.split_once(": ")?;
    let stream = if stream == "out" { "output" } else { "error" };
    Some(Failure::Other(format!("standard {stream}: {why}")))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Write};
    use std::panic;

    use super::*;

    /// The panic of `print!` to something on which a write fails so; its words are the library's.
    fn failing(error: &io::Error) -> Box<dyn Any + Send> {
        let said = error.to_string();
        panic::catch_unwind(|| panic!("failed printing to stdout: {said}")).unwrap_err()
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_told_from_a_disk_that_is_full() {
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        let gone = writer.write_all(b"x").unwrap_err();
        assert_eq!(failure(&*failing(&gone)), Some(Failure::ReaderGone));
        let full = File::options().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        let said = "standard output: No space left on device (os error 28)".to_owned();
        assert_eq!(failure(&*failing(&full)), Some(Failure::Other(said)));
        assert_eq!(failure(&*panic::catch_unwind(|| panic!("{}", 1 + 1)).unwrap_err()), None);
    }
}
