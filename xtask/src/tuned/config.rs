//! Kernel configurations: the fragment that says what is wished, and the final one that says what is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use anyhow::{Context, Result, bail, ensure};

/// One line of a configuration, the name without `CONFIG_`; a value as it stands there, `n` for what is not set.
fn line(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix("# CONFIG_") {
        return Some((rest.strip_suffix(" is not set")?, "n"));
    }
    text.strip_prefix("CONFIG_")?.split_once('=')
}

/// One line of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The option's name, without `CONFIG_`.
    pub option: String,
    /// The value: `y`, `n`, a number or a string in quotes.
    pub value: String,
    /// The comment above it.
    pub why: String,
    /// The file that the fragment is in, from the root of the workspace.
    pub file: &'static str,
    /// Its line there, counted from 1.
    pub line: usize,
}

impl Display for Wish {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        match self.value.as_str() {
            "n" => write!(to, "# CONFIG_{} is not set", self.option),
            value => write!(to, "CONFIG_{}={value}", self.option),
        }
    }
}

/// What is wished; everything else is to be off or as a wish needs it.
#[derive(Clone, Debug)]
pub struct Fragment {
    /// In the order of the files.
    pub wishes: Vec<Wish>,
}

impl Fragment {
    /// Reads a fragment that is in `file`: wishes, comments and blank lines. A comment is the reason of all wishes up
    /// to the next blank line or comment.
    pub fn parse(file: &'static str, text: &str) -> Result<Self> {
        let mut wishes: Vec<Wish> = Vec::new();
        let mut seen = BTreeSet::new();
        let (mut why, mut in_comment) = (String::new(), false);
        for (number, text) in (1..).zip(text.lines()) {
            if let Some((option, value)) = line(text) {
                ensure!(!value.is_empty(), "{file}:{number}: {option} has no value");
                ensure!(seen.insert(option), "{file}:{number}: {option} is wished twice");
                let [option, value] = [option, value].map(str::to_owned);
                wishes.push(Wish { option, value, why: why.clone(), file, line: number });
                in_comment = false;
            } else if let Some(comment) = text.strip_prefix("# ") {
                if !in_comment {
                    why.clear();
                }
                let space = if why.is_empty() { "" } else { " " };
                why.extend([space, comment]);
                in_comment = true;
            } else if text.is_empty() {
                why.clear();
                in_comment = false;
            } else {
                bail!("{file}:{number}: neither an option nor a comment: {text}");
            }
        }
        Ok(Self { wishes })
    }

    /// Both fragments' wishes; `other`'s stand in place of what is wished otherwise here.
    pub fn with(mut self, other: Self) -> Result<Self> {
        for wish in &other.wishes {
            if let Some(at) = self.wishes.iter().position(|here| here.option == wish.option) {
                let here = self.wishes.remove(at);
                ensure!(
                    here.value != wish.value,
                    "{}:{}: {wish} is wished in {}:{} already",
                    wish.file,
                    wish.line,
                    here.file,
                    here.line
                );
            }
        }
        self.wishes.extend(other.wishes);
        Ok(self)
    }

    /// The wishes without their reasons, as Kconfig reads them.
    #[must_use]
    pub fn lines(&self) -> String {
        self.wishes.iter().map(|wish| format!("{wish}\n")).collect()
    }

    /// The wish for an option.
    #[must_use]
    pub fn wish(&self, option: &str) -> Option<&Wish> {
        self.wishes.iter().find(|wish| wish.option == option)
    }

    /// Fails, naming each, when there are wishes that `config` does not grant: Kconfig drops in silence what depends
    /// on an option that is off, and what the kernel does not know.
    pub fn check(&self, config: &Config) -> Result<()> {
        let denied = self.wishes.iter().filter(|wish| config.value(&wish.option) != wish.value);
        let said: Vec<String> = denied
            .map(|wish| {
                let value = config.value(&wish.option);
                format!("  {}:{}: {wish}, but it is {value}: {}", wish.file, wish.line, wish.why)
            })
            .collect();
        ensure!(
            said.is_empty(),
            "the kernel's configuration does not grant {} of {} wishes; wish for what they depend on as well, or drop them:\n{}",
            said.len(),
            self.wishes.len(),
            said.join("\n")
        );
        Ok(())
    }
}

/// A final configuration, as the kernel's build leaves it in `.config`.
#[derive(Clone, Debug)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads it; fails when there is nothing in it.
    pub fn parse(text: &str) -> Result<Self> {
        let all: BTreeMap<_, _> = text
            .lines()
            .filter_map(line)
            .map(|(option, value)| (option.to_owned(), value.to_owned()))
            .collect();
        (!all.is_empty()).then_some(Self(all)).context("no kernel configuration: it has no options")
    }

    /// The value of an option; `n` as well for one that is not there, as Kconfig has it.
    #[must_use]
    pub fn value(&self, option: &str) -> &str {
        self.0.get(option).map_or("n", String::as_str)
    }

    /// The names of all options that are on or have a value.
    pub fn on(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| *value != "n").map(|(option, _)| option.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# About the file.\n\n# Two lines\n# of reason.\nCONFIG_SMP=y\nCONFIG_NAME=\"a=b\"\n\
                        # CONFIG_VT is not set\n# Another.\nCONFIG_X=3\n\nCONFIG_BARE=y\n";

    #[test]
    fn a_fragment_with_reasons() {
        let fragment = Fragment::parse("a.config", TEXT).unwrap();
        let seen: Vec<_> = fragment
            .wishes
            .iter()
            .map(|w| (w.line, w.option.as_str(), w.value.as_str(), w.why.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (5, "SMP", "y", "Two lines of reason."),
                (6, "NAME", "\"a=b\"", "Two lines of reason."),
                (7, "VT", "n", "Two lines of reason."),
                (9, "X", "3", "Another."),
                (11, "BARE", "y", ""),
            ]
        );
        let lines = "CONFIG_SMP=y\nCONFIG_NAME=\"a=b\"\n# CONFIG_VT is not set\nCONFIG_X=3\nCONFIG_BARE=y\n";
        assert_eq!(fragment.lines(), lines);
    }

    #[test]
    fn what_is_no_fragment() {
        let said = |text| Fragment::parse("a.config", text).unwrap_err().to_string();
        assert!(said("CONFIG_A=y\nCONFIG_A=n\n").contains(":2: A is wished twice"));
        assert!(said("\nSMP=y\n").contains(":2: neither an option nor a comment: SMP=y"));
        assert!(said("CONFIG_A=\n").contains(":1: A has no value"));
    }

    #[test]
    fn names_each_wish_that_is_not_granted() {
        let fragment = Fragment::parse("a.config", TEXT).unwrap();
        let granted =
            Config::parse("CONFIG_SMP=y\nCONFIG_NAME=\"a=b\"\nCONFIG_X=3\nCONFIG_BARE=y\n").unwrap();
        fragment.check(&granted).unwrap();
        let partly = Config::parse(
            "# CONFIG_SMP is not set\nCONFIG_NAME=\"a=b\"\nCONFIG_VT=y\nCONFIG_X=4\nCONFIG_BARE=y",
        );
        let said = fragment.check(&partly.unwrap()).unwrap_err().to_string();
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].contains("3 of 5"));
        assert!(lines[1].ends_with(":5: CONFIG_SMP=y, but it is n: Two lines of reason."));
        assert!(lines[2].ends_with(":7: # CONFIG_VT is not set, but it is y: Two lines of reason."));
        assert!(lines[3].ends_with(":9: CONFIG_X=3, but it is 4: Another."));
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn one_fragment_over_another() {
        let one = Fragment::parse("one", "# Why.\nCONFIG_A=y\nCONFIG_B=y\n").unwrap();
        let other = Fragment::parse("other", "# CONFIG_A is not set\nCONFIG_C=m\n").unwrap();
        let both = one.clone().with(other).unwrap();
        assert_eq!(both.lines(), "CONFIG_B=y\n# CONFIG_A is not set\nCONFIG_C=m\n");
        let places: Vec<_> = both.wishes.iter().map(|wish| (wish.file, wish.line)).collect();
        assert_eq!(places, [("one", 3), ("other", 1), ("other", 2)]);
        let again = Fragment::parse("other", "\nCONFIG_B=y\n").unwrap();
        let said = one.with(again).unwrap_err().to_string();
        assert_eq!(said, "other:2: CONFIG_B=y is wished in one:3 already");
    }

    #[test]
    fn an_empty_configuration_is_none() {
        Config::parse("# nothing\n").unwrap_err();
    }
}
