//! `docs/boot-time.md` and its pictures, made of the budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::budget::{Budgets, FILE, ORDER, in_order};
use super::phase::{Costs, Whose};
use super::scenario::Scenario;
use super::verdict;
use super::waterfall::{self, millions};
use crate::cache;

/// The page, in the tree; its pictures are in a folder of that name.
const PAGE: &str = "docs/boot-time.md";
const PICTURES: &str = "docs/boot-time";

/// All files, by their paths in the tree.
#[must_use]
pub fn files(budgets: &Budgets) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = known(budgets)
        .map(|(name, phases)| (format!("{PICTURES}/{name}.svg"), waterfall::draw(&name, phases)))
        .collect();
    files.insert(PAGE.to_owned(), page(budgets));
    files
}

/// Writes the files into the tree at `root`, and removes pictures of scenarios that are gone.
pub fn write(root: &Path, budgets: &Budgets) -> Result<()> {
    fs::create_dir_all(root.join(PICTURES))?;
    let files = files(budgets);
    for (name, text) in &files {
        cache::write(&root.join(name), text.as_bytes())?;
    }
    for stale in pictures(root)?.iter().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(root.join(stale)).with_context(|| format!("cannot remove {stale}"))?;
    }
    Ok(())
}

/// The files in the tree that are not what the budgets give.
pub fn stale(root: &Path, budgets: &Budgets) -> Result<Vec<String>> {
    let files = files(budgets);
    let is_right =
        |name: &String| fs::read_to_string(root.join(name)).is_ok_and(|text| Some(&text) == files.get(name));
    let all: BTreeSet<String> = pictures(root)?.into_iter().chain(files.keys().cloned()).collect();
    Ok(all.into_iter().filter(|name| !is_right(name)).collect())
}

fn pictures(root: &Path) -> Result<Vec<String>> {
    let folder = root.join(PICTURES);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries =
        fs::read_dir(folder)?.map(|entry| Ok(format!("{PICTURES}/{}", entry?.file_name().to_string_lossy())));
    entries.collect()
}

/// Scenarios that have budgets, in their order.
fn known(budgets: &Budgets) -> impl Iterator<Item = (String, &BTreeMap<String, Costs>)> {
    Scenario::all().into_iter().filter_map(|scenario| {
        let name = scenario.name();
        let phases = budgets.scenario.get(&name)?;
        Some((name, phases))
    })
}

fn page(budgets: &Budgets) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut text, budgets);
    text
}

fn write_page(to: &mut String, budgets: &Budgets) -> std::fmt::Result {
    writeln!(to, "# What a start takes\n")?;
    writeln!(
        to,
        "Millions of instructions, counted in the nested lab ([measuring.md](measuring.md)); waits are left out. Made of\n\
         `{FILE}` by `cargo xtask guard --docs`; `cargo xtask guard` fails when a change makes a phase slower.\n"
    )?;
    writeln!(
        to,
        "Names of scenarios: the guest (`mark`, six instructions that mark and power off; jiffy's kernel `fast`; Debian's),\nhow it is entered, RAM. One vCPU, no randomisation, an initramfs of 50 KB.\n"
    )?;
    writeln!(to, "| phase | from the event before to |\n|-|-|")?;
    for (phase, what) in PHASES {
        writeln!(to, "| {phase} | {what} |")?;
    }
    writeln!(
        to,
        "\nThreads that a guest's kernel starts at boot end before or after init's first instruction, as its scheduler has it:\na quarter of a million instructions moves between `kernel` and `init` from one build to the next.\n"
    )?;
    writeln!(
        to,
        "`start` is counted from an event of one thread to one of another, and so has the making of the vCPU's thread and the\nswitch to it. `cargo xtask bench start` counts what the threads of events have used of the processor, and leaves those out\n([measuring.md](measuring.md)): to the mark it gives some 0.15 less.\n"
    )?;
    let columns: Vec<&str> = ORDER
        .into_iter()
        .filter(|phase| known(budgets).any(|(_, phases)| phases.contains_key(*phase)))
        .collect();
    writeln!(to, "## By phase\n\n| scenario | {} | to the workload |", columns.join(" | "))?;
    writeln!(to, "|-|{}-|", "-|".repeat(columns.len()))?;
    for (name, phases) in known(budgets) {
        let sum = |costs: &Costs| costs.values().sum::<u64>();
        let cells: Vec<String> = columns
            .iter()
            .map(|phase| phases.get(*phase).map_or(String::new(), |costs| millions(sum(costs))))
            .collect();
        let total = in_order(phases)
            .filter(|(phase, _)| !verdict::is_after(phase))
            .map(|(_, costs)| sum(costs))
            .sum();
        writeln!(to, "| {name} | {} | {} |", cells.join(" | "), millions(total))?;
    }
    writeln!(
        to,
        "\n## By whose they are\n\n| scenario | {} |\n|-|{}",
        Whose::ALL.map(|whose| whose.to_string()).join(" | "),
        "-|".repeat(Whose::ALL.len())
    )?;
    for (name, phases) in known(budgets) {
        let sum = |whose| millions(phases.values().filter_map(|costs| costs.get(&whose)).sum());
        writeln!(to, "| {name} | {} |", Whose::ALL.map(sum).join(" | "))?;
    }
    writeln!(
        to,
        "\n`host` is the host's kernel for jiffy on its way to the guest; `exits` is the host's kernel, KVM and jiffy for the guest.\n"
    )?;
    writeln!(to, "## By release\n\nTo the workload, or to the mark.\n")?;
    let versions: Vec<&String> = budgets.history.keys().collect();
    let shown: Vec<&str> = versions.iter().map(|version| version.as_str()).collect();
    writeln!(to, "| scenario | {} |\n|-|{}", shown.join(" | "), "-|".repeat(shown.len()))?;
    for (name, _) in known(budgets) {
        let cell =
            |version: &&String| budgets.history[*version].get(&name).map_or(String::new(), |n| millions(*n));
        let cells: Vec<String> = versions.iter().map(cell).collect();
        writeln!(to, "| {name} | {} |", cells.join(" | "))?;
    }
    writeln!(to, "\n## Made with\n\n```text\n{}```\n\n## Pictures\n", budgets.made_with)?;
    for (name, _) in known(budgets) {
        writeln!(to, "![{name}](boot-time/{name}.svg)\n")?;
    }
    // One line break at the end is enough.
    to.truncate(to.trim_end().len());
    to.push('\n');
    Ok(())
}

/// What phases end with.
const PHASES: [(&str, &str); 14] = [
    ("exec", "jiffy's first instruction, from its parent's call"),
    ("config", "flags and files are a specification"),
    ("open", "`/dev/kvm` is open, and all files"),
    ("memory", "guest RAM is mapped"),
    ("load", "kernel and initrd are in guest RAM"),
    ("build", "the VM, its devices and vCPUs are there"),
    ("start", "the vCPU's thread is about to enter the guest"),
    ("firmware", "the firmware hands over"),
    ("mark", "the guest's mark"),
    ("kernel", "init's first instruction"),
    ("init", "init starts the workload"),
    ("workload", "the workload, init's greeting, has ended"),
    ("power-off", "the guest has powered off"),
    ("end", "all of the VM is given back; only what jiffy itself does"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_tree_is_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let budgets = Budgets::parse(&fs::read_to_string(root.join(FILE)).unwrap()).unwrap();
        assert!(budgets.scenario.len() >= 12, "a dozen scenarios have budgets");
        assert_eq!(stale(root, &budgets).unwrap(), [""; 0], "make them anew: cargo xtask guard --docs");
        assert_eq!(Budgets::parse(&budgets.to_string()).unwrap(), budgets);
    }

    #[test]
    fn stale_files_are_named() {
        let place = tempfile::tempdir().unwrap();
        let mut budgets = Budgets::default();
        write(place.path(), &budgets).unwrap();
        assert!(stale(place.path(), &budgets).unwrap().is_empty());
        let name = Scenario::all()[0].name();
        let phases = BTreeMap::from([("exec".to_owned(), Costs::from([(Whose::Jiffy, 1)]))]);
        budgets.scenario.insert(name.clone(), phases);
        let picture = format!("{PICTURES}/{name}.svg");
        assert_eq!(stale(place.path(), &budgets).unwrap(), [PAGE.to_owned(), picture.clone()]);
        write(place.path(), &budgets).unwrap();
        budgets.scenario.clear();
        assert_eq!(stale(place.path(), &budgets).unwrap(), [PAGE.to_owned(), picture.clone()]);
        write(place.path(), &budgets).unwrap();
        assert!(!place.path().join(picture).exists());
    }
}
