//! Why an option is on, or off.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;

use super::config::{Config, Fragment, Wish};
use super::kconfig::{Entry, Known};

/// Says why `option` is as it is: by a wish, by what selects it (and which wish that goes back to), or by its own
/// default. Lines of text, the first of them with the option's value.
#[must_use]
pub fn why(option: &str, fragment: &Fragment, config: &Config, known: &Known) -> String {
    let none = Entry::default();
    let entry = known.get(option).unwrap_or(&none);
    let mut reasons: Vec<String> = fragment.wish(option).map(wished).into_iter().collect();
    for (how, by) in [("selected", &entry.selected_by), ("implied", &entry.implied_by)] {
        if !by.is_empty() {
            reasons.push(format!("{how} by {}", by.join(", ")));
        }
    }
    if let Some((chain, wish)) = chain(option, fragment, known)
        && fragment.wish(option).is_none()
    {
        reasons.push(format!("which goes back to {}: {}", chain.join(" ← "), wished(wish)));
    }
    let (mut said, otherwise) = match config.value(option) {
        "n" => (
            format!("# CONFIG_{option} is not set"),
            "neither wished nor needed by what is on, or no option of this kernel",
        ),
        value => (format!("CONFIG_{option}={value}"), "nothing selects it: it is on by its own default"),
    };
    if reasons.is_empty() {
        reasons.push(otherwise.to_owned());
    }
    if let Some(title) = &entry.title {
        let _ = write!(said, "  ({title})");
    }
    if !entry.place.is_empty() {
        let _ = write!(said, "\n  defined in {}", entry.place);
    }
    reasons.iter().for_each(|reason| said.extend(["\n  ", reason]));
    said
}

fn wished(wish: &Wish) -> String {
    format!("wished in {}:{}: {}", wish.file, wish.line, wish.why)
}

/// The shortest way from an option to a wish, by what selects or implies.
fn chain<'a>(option: &'a str, fragment: &'a Fragment, known: &'a Known) -> Option<(Vec<&'a str>, &'a Wish)> {
    let mut seen = BTreeSet::from([option]);
    let mut ways = VecDeque::from([vec![option]]);
    while let Some(way) = ways.pop_front() {
        let entry = known.get(*way.last()?);
        for by in entry.into_iter().flat_map(|entry| entry.selected_by.iter().chain(&entry.implied_by)) {
            if !seen.insert(by) {
                continue;
            }
            let mut longer = way.clone();
            longer.push(by);
            match fragment.wish(by) {
                Some(wish) => return Some((longer, wish)),
                None => ways.push_back(longer),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(place: &str, selected_by: &[&str]) -> Entry {
        let selected_by = selected_by.iter().map(|&by| by.to_owned()).collect();
        Entry { place: place.to_owned(), selected_by, ..Entry::default() }
    }

    #[test]
    fn gives_each_kind_of_reason() {
        let fragment =
            Fragment::parse("a.config", "# Disks.\nCONFIG_EXT4=y\n\n# Screens.\n# CONFIG_VT is not set\n")
                .unwrap();
        let config = Config::parse("CONFIG_EXT4=y\nCONFIG_JBD=y\nCONFIG_CRC=y\nCONFIG_AUTO=y\n").unwrap();
        let mut known = Known::new();
        known.insert(
            "EXT4".to_owned(),
            Entry { title: Some("ext4".to_owned()), ..entry("fs/Kconfig:3", &[]) },
        );
        known.insert("JBD".to_owned(), entry("fs/Kconfig:9", &["EXT4"]));
        // Two options that select each other do not make it go round.
        known.insert("CRC".to_owned(), entry("lib/Kconfig:1", &["CRC", "LOOP", "JBD"]));
        known.insert("LOOP".to_owned(), entry("lib/Kconfig:2", &["CRC"]));
        known.insert("AUTO".to_owned(), entry("init/Kconfig:7", &[]));
        let why = |option| why(option, &fragment, &config, &known);
        let file = "a.config";
        assert_eq!(
            why("EXT4"),
            format!("CONFIG_EXT4=y  (ext4)\n  defined in fs/Kconfig:3\n  wished in {file}:2: Disks.")
        );
        assert_eq!(
            why("CRC"),
            format!(
                "CONFIG_CRC=y\n  defined in lib/Kconfig:1\n  selected by CRC, LOOP, JBD\n  \
                 which goes back to CRC ← JBD ← EXT4: wished in {file}:2: Disks."
            )
        );
        assert!(why("AUTO").ends_with("\n  nothing selects it: it is on by its own default"));
        assert_eq!(why("VT"), format!("# CONFIG_VT is not set\n  wished in {file}:5: Screens."));
        assert_eq!(
            why("NO_SUCH"),
            "# CONFIG_NO_SUCH is not set\n  neither wished nor needed by what is on, or no option of this kernel"
        );
    }
}
