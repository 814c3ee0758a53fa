//! Each use of `unsafe` says why it is sound, each opt-in says why it is needed. The compiler and clippy check
//! what they compile; this reads every file, whatever features and targets it is for.

use super::source::tokens;
use super::{Finding, Source, Tree};

/// Reports each `unsafe` without its comment and each `allow` without its reason.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources
        .iter()
        .flat_map(|source| [unsafe_without_comment(source), allow_without_reason(source)])
        .flatten()
        .collect()
}

fn unsafe_without_comment(source: &Source) -> Vec<Finding> {
    let tokens = tokens(&source.code);
    let mut findings = Vec::new();
    let mut depth = 0_usize;
    // Brace depth of the `unsafe impl` that is open: its functions have the contract of the trait's.
    let mut implementing = None;
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                implementing = implementing.filter(|outer| *outer != depth);
            }
            _ => {}
        }
        if token.text != "unsafe" {
            continue;
        }
        let next = tokens.get(i + 1).map_or("", |t| t.text);
        if next == "impl" {
            implementing = Some(depth);
        }
        // A declaration with a contract (`unsafe fn`, `unsafe trait`), or something that relies on one?
        let (marker, mend) = match next {
            "{" | "impl" => ("SAFETY:", "say above it why it is sound: `// SAFETY: …`"),
            "fn" | "trait" => {
                ("# Safety", "say in its documentation what callers or implementers must keep: `# Safety`")
            }
            _ => continue,
        };
        let is_type = next == "fn" && tokens.get(i + 2).is_some_and(|t| t.text == "(");
        let inherited = next == "fn" && implementing.is_some();
        if !is_type && !inherited && !commented(source, token.line, marker) {
            findings.push(Finding::at(
                source,
                token.line,
                format!("`unsafe {next}` without `{marker}`"),
                mend,
            ));
        }
    }
    findings
}

/// Whether `marker` stands in a comment on the line or in the lines above it that belong to the same item: comments,
/// attributes and the beginning of the statement.
fn commented(source: &Source, line: usize, marker: &str) -> bool {
    let lines: Vec<&str> = source.text.lines().collect();
    let code: Vec<&str> = source.code.lines().collect();
    let commented_here =
        |at: usize| lines[at].split_once("//").is_some_and(|(_, comment)| comment.contains(marker));
    let mut at = line - 1;
    loop {
        if commented_here(at) {
            return true;
        }
        if at == 0 {
            return false;
        }
        at -= 1;
        // The previous statement or block ends here, or an empty line parts the comment from the code.
        let ends = code[at].trim_end().ends_with([';', '}', '{', ',']);
        if lines[at].trim().is_empty() || ends && !commented_here(at) {
            return false;
        }
    }
}

fn allow_without_reason(source: &Source) -> Vec<Finding> {
    let tokens = tokens(&source.code);
    let mut findings = Vec::new();
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| matches!(t.text, "allow" | "expect")) {
        let before = |back: usize| i.checked_sub(back).map_or("", |j| tokens[j].text);
        let attribute = before(1) == "[" && (before(2) == "#" || before(2) == "!");
        if !attribute || tokens.get(i + 1).map_or("", |t| t.text) != "(" {
            continue;
        }
        let inside = tokens[i + 2..].iter().take_while(|t| t.text != "]");
        if !inside.clone().any(|t| t.text == "reason") {
            let lints: String = inside.map(|t| t.text).collect();
            let mend = "give it one: `allow(…, reason = \"…\")`";
            findings.push(Finding::at(
                source,
                token.line,
                format!("`{}({lints}` without a reason", token.text),
                mend,
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, check: fn(&Source) -> Vec<Finding>) -> Vec<usize> {
        let found = check(&Source::new("x.rs".into(), text.to_owned()));
        found.iter().map(|f| f.place.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(0)).collect()
    }

    #[test]
    fn unsafe_blocks_need_a_comment() {
        let none = [0; 0];
        assert_eq!(lines("// SAFETY: it is\nlet x = unsafe { y() };", unsafe_without_comment), none);
        assert_eq!(lines("// SAFETY: it is\nlet x =\n    unsafe { y() };", unsafe_without_comment), none);
        assert_eq!(lines("let x = unsafe { y() }; // SAFETY: it is", unsafe_without_comment), none);
        assert_eq!(lines("let x = unsafe { y() };", unsafe_without_comment), [1]);
        assert_eq!(lines("// SAFETY: a\nunsafe { a() };\nunsafe { b() };", unsafe_without_comment), [3]);
        assert_eq!(lines("// SAFETY: a\n\nunsafe { a() };", unsafe_without_comment), [3]);
        assert_eq!(lines("let s = \"SAFETY:\"; unsafe { a() };", unsafe_without_comment), [1]);
        assert_eq!(
            lines("/// # Safety\n/// Be careful.\n#[inline]\npub unsafe fn f() {}", unsafe_without_comment),
            none
        );
        assert_eq!(lines("pub unsafe fn f() {}", unsafe_without_comment), [1]);
        assert_eq!(lines("type F = unsafe fn(u8);", unsafe_without_comment), none);
        assert_eq!(lines("unsafe impl Send for X {}", unsafe_without_comment), [1]);
        let implementation =
            "// SAFETY: a\nunsafe impl A for X {\n unsafe fn a() { b() }\n}\nunsafe fn c() {}";
        assert_eq!(lines(implementation, unsafe_without_comment), [5]);
        assert_eq!(lines("// unsafe { }\nlet s = \"unsafe {\";", unsafe_without_comment), none);
    }

    #[test]
    fn allows_need_a_reason() {
        let none = [0; 0];
        assert_eq!(lines("#![allow(unsafe_code, reason = \"ioctls\")]", allow_without_reason), none);
        assert_eq!(lines("#[allow(\n    unsafe_code\n)]", allow_without_reason), [1]);
        assert_eq!(lines("fn f() { x.expect(\"y\"); }", allow_without_reason), none);
        assert_eq!(lines("#![expect(dead_code)]", allow_without_reason), [1]);
    }
}
