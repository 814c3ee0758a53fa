//! Licences of everything that is linked or run at build time: only such as ask for no more than their text.

use cargo_metadata::Package;
use spdx::Expression;

use super::{Finding, Tree};

/// SPDX identifiers that are fine.
const ALLOWED: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "NCSA",
    "Unicode-3.0",
    "Zlib",
];

/// Reports each package whose licence is missing, malformed or not allowed.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.metadata
        .packages
        .iter()
        .filter_map(|package| Some((package, problem(package)?)))
        .map(|(package, what)| {
            let mend =
                "choose another package, or add the licence to the list in licences.rs after reading it";
            Finding::new("Cargo.lock", format!("{} {}: {what}", package.name, package.version), mend)
        })
        .collect()
}

fn problem(package: &Package) -> Option<String> {
    let Some(licence) = &package.license else {
        return Some("names no licence".into());
    };
    judge(licence)
}

/// What is wrong with a licence expression, if anything.
fn judge(licence: &str) -> Option<String> {
    // `MIT/Apache-2.0` is how older packages write `OR`.
    match Expression::parse_mode(licence, spdx::ParseMode::LAX) {
        Err(e) => Some(format!("licence `{licence}` is no SPDX expression: {}", e.reason)),
        Ok(parsed)
            if parsed.evaluate(|req| req.license.id().is_some_and(|id| ALLOWED.contains(&id.name))) =>
        {
            None
        }
        Ok(_) => Some(format!("licence `{licence}` is not allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_understood() {
        for fine in ["MIT", "MIT OR GPL-3.0-only", "MIT/Apache-2.0", "(MIT OR GPL-2.0-only) AND Zlib"] {
            assert_eq!(judge(fine), None, "{fine}");
        }
        for bad in ["GPL-3.0-only", "MIT AND GPL-2.0-only", "MIT OR", "Nonsense", ""] {
            assert!(judge(bad).is_some(), "{bad}");
        }
    }
}
