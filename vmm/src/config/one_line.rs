//! Text of others in messages of ours.

use std::fmt::{self, Write};

/// Shows text from a file or a flag so that a message stays one line of bearable length: control
/// characters are escaped, and what is beyond [`LIMIT`] characters is cut.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

/// The most characters that are shown of one piece of text.
const LIMIT: usize = 500;

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shown, c) in self.0.chars().enumerate() {
            if shown == LIMIT {
                return f.write_str("…");
            }
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_cuts() {
        assert_eq!(OneLine("a\nb\u{1b}[31m\u{85}ü").to_string(), "a\\nb\\u{1b}[31m\\u{85}ü");
        assert_eq!(OneLine(&"x".repeat(LIMIT)).to_string(), "x".repeat(LIMIT));
        assert_eq!(OneLine(&"x".repeat(LIMIT + 1)).to_string(), format!("{}…", "x".repeat(LIMIT)));
    }
}
