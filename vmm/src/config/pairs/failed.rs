//! What serde says of a device, in words of ours: what is wrong, and what to do.

use std::fmt;

use serde::de;

/// What is wrong.
#[derive(Debug)]
pub(super) struct Failed(pub(super) String);

impl Failed {
    /// With the key whose value is wrong.
    #[cold]
    #[inline(never)]
    pub(super) fn of(self, key: &str) -> Self {
        Self(format!("{key}: {}", self.0))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        let choices = match known {
            [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
            _ => known.concat(),
        };
        Self(format!("`{found}` is not known: give {choices}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("`{field}` is missing: add {field}=…"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self(format!("`{field}` is given twice: give it once"))
    }
}
