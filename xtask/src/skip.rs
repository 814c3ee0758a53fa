//! Tests that cannot be run here: counted, with the reason, or fatal when nothing may be left out.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Set to `1` when a test that cannot be run is a failure.
pub const REQUIRE: &str = "JIFFY_REQUIRE";
/// Names the file in which tests that are not run are noted.
pub const NOTES: &str = "JIFFY_SKIPPED";

/// Says that the test `name` is not run, and why; the caller then returns.
///
/// # Panics
/// When [`REQUIRE`] is set, or the note cannot be written.
#[track_caller]
pub fn note(name: &str, reason: &str) {
    assert!(env::var_os(REQUIRE).is_none_or(|value| value != "1"), "{name} cannot be run here: {reason}");
    eprintln!("skipped: {name}: {reason}");
    if let Some(path) = env::var_os(NOTES) {
        // One write to a file opened for appending is not mixed with those of other tests.
        let file = File::options().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(format!("{name}: {reason}\n").as_bytes()));
        written.expect("the file that JIFFY_SKIPPED names can be written");
    }
}

/// What was noted in the file `path`.
pub fn notes(path: &Path) -> Result<Vec<String>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}
