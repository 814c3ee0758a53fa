//! No package mirror is named: where packages come from is the choice of the machine's own package manager.

use super::{Finding, Tree};

/// First labels of hosts that serve packages or their indices.
const LABELS: [&str; 9] =
    ["archive", "cdn", "deb", "download", "ftp", "mirror", "mirrors", "security", "snapshot"];
/// Parts of paths that only a package archive has.
const PATHS: [&str; 4] = ["/debian", "/ubuntu", "/dists/", "/pool/main"];

/// Reports each URL of a package archive. `Cargo.lock` is cargo's own.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree
        .sources
        .iter()
        .chain(&tree.texts)
        .filter(|s| s.path.file_name().is_none_or(|n| n != "Cargo.lock"))
    {
        for (line, text) in (1..).zip(source.text.lines()) {
            for url in archives(text) {
                let what = format!("names a package archive: {url}");
                findings.push(Finding::at(
                    source,
                    line,
                    what,
                    "ask the package manager (apt) where packages are",
                ));
            }
        }
    }
    findings
}

/// The URLs in `text` that lead to package archives.
fn archives(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("://").map(|(at, _)| at + 3);
    starts.filter_map(|at| {
        let url = &text[at..];
        let url =
            &url[..url.find(|c: char| c.is_whitespace() || "\"'<>)]`".contains(c)).unwrap_or(url.len())];
        let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        let label = host.split('.').next().unwrap_or(host);
        let serves =
            host.contains('.') && LABELS.contains(&label) || PATHS.iter().any(|p| path.starts_with(p));
        serves.then_some(url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_archives_from_other_places() {
        let found = |text: &'static str| archives(text).count();
        // The parts are joined here so that this file does not name one itself.
        let join = |parts: &[&str]| -> &'static str { parts.concat().leak() };
        assert_eq!(found(join(&["see http:/", "/deb.example.org/x and more"])), 1);
        assert_eq!(found(join(&["\"https:/", "/example.org/debian/pool\""])), 1);
        assert_eq!(found(join(&["https:/", "/example.org/rust-vmm/kvm"])), 0);
        assert_eq!(found("no address here: a // b"), 0);
    }
}
