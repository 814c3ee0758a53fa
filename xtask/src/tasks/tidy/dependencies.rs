//! Dependencies: each has its reason, each is used, and rust-vmm's packages are there once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cargo_metadata::Package;

use super::source::tokens;
use super::{Finding, Tree};

const MANIFEST: &str = "Cargo.toml";

/// Runs the four checks.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let text = tree.texts.iter().find(|t| t.path == Path::new(MANIFEST)).map_or("", |t| &t.text);
    let lines = workspace_dependencies(text);
    let mut findings = without_reason(&lines);
    findings.extend(not_taken(tree, &lines));
    findings.extend(not_named(tree));
    findings.extend(twice(tree));
    findings
}

/// The lines of the workspace's table of dependencies, with their numbers.
fn workspace_dependencies(manifest: &str) -> Vec<(usize, &str)> {
    (1..)
        .zip(manifest.lines())
        .skip_while(|(_, line)| line.trim() != "[workspace.dependencies]")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('['))
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .collect()
}

fn name_of(line: &str) -> &str {
    line.split(['=', '.']).next().unwrap_or(line).trim()
}

fn without_reason(lines: &[(usize, &str)]) -> Vec<Finding> {
    let bare = lines
        .iter()
        .filter(|(_, line)| line.rsplit_once(" # ").is_none_or(|(_, reason)| reason.trim().len() < 8));
    bare.map(|(number, line)| {
        let what = format!("`{}` has no reason", name_of(line));
        Finding::new(format!("{MANIFEST}:{number}"), what, "say at the end of its line what it is for: `# …`")
    })
    .collect()
}

/// Dependencies of the workspace that none of its packages takes.
fn not_taken(tree: &Tree, lines: &[(usize, &str)]) -> Vec<Finding> {
    let members = tree.metadata.workspace_packages();
    let taken = |name: &str| {
        members.iter().flat_map(|p| &p.dependencies).any(|d| d.rename.as_deref().unwrap_or(&d.name) == name)
    };
    let idle = lines.iter().filter(|(_, line)| !taken(name_of(line)));
    idle.map(|(number, line)| {
        let what = format!("no package takes `{}`", name_of(line));
        Finding::new(format!("{MANIFEST}:{number}"), what, "remove the line")
    })
    .collect()
}

/// Dependencies of a package that none of its files names.
fn not_named(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let packages = tree.metadata.workspace_packages();
    let folders: Vec<_> = packages.iter().map(|package| folder(tree, package)).collect();
    for (package, folder) in packages.iter().zip(&folders) {
        // A package may stand inside another's folder.
        let inner: Vec<_> = folders.iter().filter(|f| *f != folder && f.starts_with(folder)).collect();
        let words: Vec<&str> = tree
            .sources
            .iter()
            .filter(|s| s.path.starts_with(folder) && !inner.iter().any(|i| s.path.starts_with(i)))
            .flat_map(|s| tokens(&s.code))
            .map(|t| t.text)
            .collect();
        for dependency in &package.dependencies {
            let name = dependency.rename.as_deref().unwrap_or(&dependency.name).replace('-', "_");
            if !words.contains(&name.as_str()) {
                let what = format!("no file of `{}` names `{}`", package.name, dependency.name);
                findings.push(Finding::new(
                    folder.join(MANIFEST).to_string_lossy(),
                    what,
                    "remove the dependency",
                ));
            }
        }
    }
    findings
}

/// A package's folder, relative to the workspace's root.
fn folder(tree: &Tree, package: &Package) -> PathBuf {
    let manifest = package.manifest_path.as_std_path();
    let folder = manifest.parent().unwrap_or(manifest);
    folder.strip_prefix(&tree.root).unwrap_or(folder).to_owned()
}

/// Packages of the rust-vmm project that are there in more than one version: their types would not fit together.
fn twice(tree: &Tree) -> Vec<Finding> {
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for package in &tree.metadata.packages {
        if package.repository.as_ref().is_some_and(|r| r.contains("/rust-vmm/")) {
            versions.entry(package.name.as_str()).or_default().push(package.version.to_string());
        }
    }
    versions.retain(|_, v| v.len() > 1);
    versions
        .into_iter()
        .map(|(name, found)| {
            let what = format!("`{name}` is there as {}", found.join(" and "));
            Finding::new("Cargo.lock", what, "take versions of the rust-vmm packages that go together")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_at_the_end_of_the_line() {
        let manifest = "[workspace]\nx = 1\n[workspace.dependencies]\n# a comment\na = \"1\" # what it is for\n\
                        b.version = \"1\"\nc = \"1\" #\n\n[workspace.lints]\nd = \"1\"\n";
        let lines = workspace_dependencies(manifest);
        assert_eq!(
            lines.iter().map(|(n, l)| (*n, name_of(l))).collect::<Vec<_>>(),
            [(5, "a"), (6, "b"), (7, "c")]
        );
        let places: Vec<String> = without_reason(&lines).into_iter().map(|f| f.place).collect();
        assert_eq!(places, ["Cargo.toml:6", "Cargo.toml:7"]);
    }
}
