//! Sizes of Rust files: small ones are read, large ones are searched.

use super::{Finding, Tree};

/// More lines than this want a justification.
const LARGE: usize = 400;
/// No justification covers more lines than this.
const LIMIT: usize = 600;
/// Files that may pass [`LARGE`], each with the reason why splitting it would not help its reader.
const JUSTIFIED: [(&str, &str); 0] = [];

/// Reports files that are too large, and justifications that nothing needs any more.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let name = source.path.to_string_lossy();
        let lines = source.text.lines().count();
        let justified = JUSTIFIED.iter().any(|(path, _)| *path == name);
        let mend = "split it by responsibility";
        if lines > LIMIT {
            findings.push(Finding::new(name, format!("{lines} lines; the limit is {LIMIT}"), mend));
        } else if lines > LARGE && !justified {
            let what = format!("{lines} lines; above {LARGE} a file needs a justification");
            let warning = Finding { warning: true, ..Finding::new(name, what, mend) };
            findings.push(warning);
        }
    }
    for (path, _) in JUSTIFIED {
        let found = tree.sources.iter().find(|s| s.path.to_string_lossy() == path);
        if found.is_none_or(|s| s.text.lines().count() <= LARGE) {
            let what = format!("justifies {path}, which needs it no more");
            findings.push(Finding::new(file!(), what, "take it from the list"));
        }
    }
    findings
}

/// One line on how large the files are.
pub fn summary(tree: &Tree) -> String {
    let mut lines: Vec<usize> = tree.sources.iter().map(|s| s.text.lines().count()).collect();
    lines.sort_unstable();
    let at = |share: usize| lines.get(lines.len() * share / 100).or(lines.last()).copied().unwrap_or(0);
    let all: usize = lines.iter().sum();
    format!(
        "{} Rust files, {all} lines; per file: median {}, p90 {}, most {}",
        lines.len(),
        at(50),
        at(90),
        at(100)
    )
}
