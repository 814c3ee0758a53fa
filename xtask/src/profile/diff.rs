//! Two profiles side by side.

use std::collections::BTreeMap;

use super::Functions;

/// A function that executes more, or less, than it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grown {
    /// The phase in which it does.
    pub phase: String,
    /// Its name.
    pub function: String,
    /// Instructions, before.
    pub before: u64,
    /// Instructions, after.
    pub after: u64,
}

impl Grown {
    /// How much more it executes.
    #[must_use]
    pub fn by(&self) -> i64 {
        self.after.cast_signed().wrapping_sub(self.before.cast_signed())
    }
}

/// All functions that changed; those that grew most come first, those that shrank most last.
#[must_use]
pub fn grown(before: &BTreeMap<String, Functions>, after: &BTreeMap<String, Functions>) -> Vec<Grown> {
    let mut both: BTreeMap<(&str, &str), [u64; 2]> = BTreeMap::new();
    for (side, phases) in [before, after].into_iter().enumerate() {
        for (phase, functions) in phases {
            for (function, count) in functions {
                both.entry((phase, function)).or_default()[side] += count;
            }
        }
    }
    let changed = both.into_iter().filter(|(_, [before, after])| before != after);
    let mut changed: Vec<_> = changed
        .map(|((phase, function), [before, after])| Grown {
            phase: phase.to_owned(),
            function: function.to_owned(),
            before,
            after,
        })
        .collect();
    changed.sort_by_key(|grown| -grown.by());
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_most_is_first() {
        let phases = |counts: [(&str, u64); 3]| {
            let functions = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
            BTreeMap::from([("exec".to_owned(), functions)])
        };
        let before = phases([("a", 10), ("b", 20), ("gone", 5)]);
        let after = phases([("a", 11), ("b", 20), ("new", 7)]);
        let found = grown(&before, &after);
        let found: Vec<_> = found.iter().map(|grown| (grown.function.as_str(), grown.by())).collect();
        assert_eq!(found, [("new", 7), ("a", 1), ("gone", -5)]);
        assert_eq!(grown(&before, &before), []);
    }
}
