//! What the kernel's Kconfig files say of its options: as much of it as tells why one is on (Linux,
//! `Documentation/kbuild/kconfig-language.rst`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::expression;

/// The options that are on, by name.
pub type Known = BTreeMap<String, Entry>;

/// What is known of an option that is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is defined, from the root of the kernel's source: `FILE:LINE`.
    pub place: String,
    /// What the menu calls it, when it is in the menu.
    pub title: Option<String>,
    /// The options that are on and select it, under conditions that hold.
    pub selected_by: Vec<String>,
    /// As with `selected_by`, for the weaker `imply`.
    pub implied_by: Vec<String>,
}

/// Reads the Kconfig files below `source` and keeps what concerns the options that are on in `config`.
pub fn read(source: &Path, config: &Config) -> Result<Known> {
    let mut known = config.on().map(|option| (option.to_owned(), Entry::default())).collect();
    walk(source, source, &mut |path, text| parse(path, text, config, &mut known))?;
    Ok(known)
}

/// Calls `take` with the path, from `root`, and the text of each Kconfig file that is for this architecture.
fn walk(root: &Path, folder: &Path, take: &mut impl FnMut(&str, &str)) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let shown = path.strip_prefix(root)?.to_string_lossy();
        let elsewhere = ["Documentation", "scripts", "tools"].contains(&&*shown)
            || shown.strip_prefix("arch/").is_some_and(|arch| arch != "Kconfig" && !arch.starts_with("x86"));
        if elsewhere {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(root, &path, take)?;
        } else if entry.file_name().to_string_lossy().starts_with("Kconfig") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            take(&shown, &text);
        }
    }
    Ok(())
}

/// Adds what one file says.
fn parse(path: &str, text: &str, config: &Config, known: &mut Known) {
    let mut option = String::new();
    let mut joined = String::new();
    // Set within a help text: to the indentation of its first line once that has come.
    let mut help: Option<Option<usize>> = None;
    for (number, raw) in (1..).zip(text.lines()) {
        if let Some(indent) = &mut help {
            if raw.trim().is_empty() || (depth(raw) > 0 && depth(raw) >= *indent.get_or_insert(depth(raw))) {
                continue;
            }
            help = None;
        }
        if let Some(part) = raw.strip_suffix('\\') {
            joined.push_str(part);
            continue;
        }
        joined.push_str(raw);
        let whole = std::mem::take(&mut joined);
        let (word, rest) = whole.trim().split_once(char::is_whitespace).unwrap_or((whole.trim(), ""));
        let (rest, condition) = rest.split_once(" if ").unwrap_or((rest, "y"));
        let rest = rest.trim();
        match word {
            "config" | "menuconfig" => {
                rest.clone_into(&mut option);
                if let Some(entry) = known.get_mut(rest)
                    && entry.place.is_empty()
                {
                    entry.place = format!("{path}:{number}");
                }
            }
            "bool" | "tristate" | "prompt" => {
                if let (Some(entry), Some(title)) = (known.get_mut(&option), rest.split('"').nth(1)) {
                    entry.title = Some(title.to_owned());
                }
            }
            "select" | "imply" if expression::holds(condition, &|name| config.value(name)) => {
                let on = config.value(&option) != "n";
                if let (true, Some(entry)) = (on, known.get_mut(rest)) {
                    let by = if word == "select" { &mut entry.selected_by } else { &mut entry.implied_by };
                    by.push(option.clone());
                }
            }
            "help" => help = Some(None),
            "choice" | "menu" | "if" | "comment" => option.clear(),
            _ => {}
        }
    }
}

/// How far a line is indented; a tab is as wide as eight spaces.
fn depth(line: &str) -> usize {
    line.chars().take_while(|c| c.is_whitespace()).map(|c| if c == '\t' { 8 } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "menuconfig NET\n\tbool \"Networking\"\n\tselect CRC\n\tselect OFF_ONE if !NET\n\
                        \tselect BPF if X || \\\n\t\tNET\n\timply LATER\n\thelp\n\t  Text that says\n\n\
                        \t  select NOT_THIS\n\nif NET\nconfig VT\n\tbool\n\tselect CRC\nendif\n\
                        config CRC\n\ttristate\nconfig NOT_THIS\n\tbool\n\tprompt \"Not\" if EXPERT\n";

    #[test]
    fn who_selects_what() {
        let on =
            "CONFIG_NET=y\nCONFIG_CRC=m\nCONFIG_BPF=y\nCONFIG_NOT_THIS=y\nCONFIG_OFF_ONE=y\nCONFIG_LATER=y\n";
        let source = tempfile::tempdir().unwrap();
        for folder in ["net", "arch/x86", "arch/arm", "tools"] {
            fs::create_dir_all(source.path().join(folder)).unwrap();
        }
        fs::write(source.path().join("net/Kconfig.more"), TEXT).unwrap();
        for elsewhere in ["arch/arm/Kconfig", "tools/Kconfig"] {
            fs::write(source.path().join(elsewhere), "config NET\n\tselect OFF_ONE\n").unwrap();
        }
        fs::write(source.path().join("arch/x86/Kconfig"), "config BPF\n\tdef_bool y\n\tselect LATER\n")
            .unwrap();
        let known = read(source.path(), &Config::parse(on).unwrap()).unwrap();
        let by = |option: &str| known[option].selected_by.join(" ");
        let selected = ["CRC", "BPF", "NOT_THIS", "OFF_ONE", "LATER"].map(by);
        assert_eq!(selected, ["NET", "NET", "", "", "BPF"]);
        assert_eq!(known["LATER"].implied_by, ["NET"]);
        assert_eq!(known["NET"].title.as_deref(), Some("Networking"));
        assert_eq!(known["NOT_THIS"].title.as_deref(), Some("Not"));
        assert_eq!(known["CRC"].title, None);
        assert_eq!(
            (known["NET"].place.as_str(), known["CRC"].place.as_str()),
            ("net/Kconfig.more:1", "net/Kconfig.more:18")
        );
        assert!(!known.contains_key("VT"));
    }
}
