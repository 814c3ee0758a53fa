//! Which module of the VMM may use which. The order is the one in which `vmm/src/lib.rs` declares its modules,
//! from the leaves up: each uses only those declared before it.

use std::path::Path;

use super::source::{Token, tokens};
use super::{Finding, Tree};

const LIBRARY: &str = "vmm/src/lib.rs";

/// Reports each path of a module of the VMM to one that is above it.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(library) = tree.sources.iter().find(|s| s.path == Path::new(LIBRARY)) else {
        return vec![Finding::new(LIBRARY, "is not there", "the order of the VMM's modules is read from it")];
    };
    let order = declared(&library.code);
    let mut findings = Vec::new();
    for source in &tree.sources {
        let Ok(inside) = source.path.strip_prefix("vmm/src") else { continue };
        let here = module_path(inside);
        let Some(rank) = here.first().and_then(|top| order.iter().position(|m| m == top)) else { continue };
        for (line, used) in uses(&tokens(&source.code), here.len()) {
            if order.iter().position(|m| *m == used).is_some_and(|other| other > rank) {
                findings.push(Finding::at(
                    source,
                    line,
                    format!("module `{}` uses `{used}`, which is above it", order[rank]),
                    format!(
                        "turn the dependency round, or move what both need below them (order: {LIBRARY})"
                    ),
                ));
            }
        }
    }
    findings
}

/// The modules that a file declares, in its order.
fn declared(code: &str) -> Vec<String> {
    let tokens = tokens(code);
    let mut names: Vec<String> = Vec::new();
    for window in tokens.windows(3) {
        if let ["mod", name, ";"] = [window[0].text, window[1].text, window[2].text] {
            names.push(name.to_owned());
        }
    }
    names
}

/// The module that a file is, as a path from the crate's root; empty for the root itself.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    if path.len() == 1 && (path[0] == "lib" || path[0] == "main") {
        path.clear();
    }
    path
}

/// The modules at the crate's root that the code names, by `crate::x` or by `super::` often enough, with lines.
/// `depth` is how deep below the root the file's module is.
fn uses<'a>(code: &[Token<'a>], depth: usize) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let mut braces = 0_usize;
    // Brace depths at which the inline modules that are open began.
    let mut inline: Vec<usize> = Vec::new();
    let text = |i: usize| code.get(i).map_or("", |t| t.text);
    let mut i = 0;
    while i < code.len() {
        match text(i) {
            "mod" if text(i + 2) == "{" => inline.push(braces),
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            "crate" if text(i + 1) == "::" => found.extend(heads(code, i + 2)),
            "super" if text(i + 1) == "::" && (i == 0 || text(i - 1) != "::") => {
                let mut ups = 0;
                while text(i) == "super" && text(i + 1) == "::" {
                    (i, ups) = (i + 2, ups + 1);
                }
                if ups == depth + inline.len() {
                    found.extend(heads(code, i));
                }
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first words of the path, or of each path of the group, that begins at `at`.
fn heads<'a>(code: &[Token<'a>], at: usize) -> Vec<(usize, &'a str)> {
    match code.get(at) {
        None => Vec::new(),
        Some(Token { text: "{", .. }) => {
            let mut found = Vec::new();
            let (mut depth, mut fresh) = (0, true);
            for token in &code[at..] {
                match token.text {
                    "{" => depth += 1,
                    "}" if depth == 1 => break,
                    "}" => depth -= 1,
                    "," if depth == 1 => fresh = true,
                    word if depth == 1 && fresh => {
                        found.push((token.line, word));
                        fresh = false;
                    }
                    _ => {}
                }
            }
            found
        }
        Some(token) => vec![(token.line, token.text)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(code: &str, depth: usize) -> Vec<&str> {
        uses(&tokens(code), depth).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn finds_every_way_to_name_a_module_of_the_root() {
        assert_eq!(names("use crate::kvm::Vm;", 1), ["kvm"]);
        assert_eq!(names("use crate::{kvm::{self, Vm}, bus, cli::Args as A};", 1), ["kvm", "bus", "cli"]);
        assert_eq!(names("fn f(x: crate::bus::Bus) -> crate::Error {}", 1), ["bus", "Error"]);
        assert_eq!(names("pub(crate) struct S; pub(super) struct T;", 1), [""; 0]);
        assert_eq!(names("use super::kvm;", 1), ["kvm"]);
        assert_eq!(names("use super::sibling;", 2), [""; 0]);
        assert_eq!(names("use super::super::{kvm, bus};", 2), ["kvm", "bus"]);
        assert_eq!(
            names("mod tests { use super::*; use super::super::cli; } use super::bus;", 1),
            ["cli", "bus"]
        );
        assert_eq!(names("mod a { fn f() { { } } } use super::b;", 1), ["b"]);
    }

    #[test]
    fn files_are_modules() {
        for (file, path) in [
            ("lib.rs", &[][..]),
            ("main.rs", &[]),
            ("kvm.rs", &["kvm"]),
            ("kvm/mod.rs", &["kvm"]),
            ("devices/virtio/queue.rs", &["devices", "virtio", "queue"]),
        ] {
            assert_eq!(module_path(Path::new(file)), path, "{file}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_declarations() {
        assert_eq!(declared("pub mod config; mod memory; use x; mod tests { }"), ["config", "memory"]);
    }
}
