//! The order of functions in `jiffy`: those that a start executes come first, side by side.
//!
//! A program's pages are mapped sixteen at a time when one of them is touched, for some 9,000 instructions. Functions as
//! the compiler leaves them make a start touch nearly all of the program.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use xtask::ctx::Ctx;
use xtask::profile::Symbols;

/// The functions, a line for each, as `cargo xtask profile --order` writes them.
const FUNCTIONS: &str = "vmm/start-order.txt";

/// The linker's list of them, if one has been made.
pub(super) fn current(ctx: &Ctx) -> Option<PathBuf> {
    fs::read_dir(folder(ctx)).ok()?.find_map(|entry| Some(entry.ok()?.path()))
}

/// Makes the linker's list anew from a program that was linked in any order, whose names are those that the linker
/// knows; whether it has changed.
pub(super) fn renew(ctx: &Ctx, program: &Path) -> Result<bool> {
    let path = ctx.root.join(FUNCTIONS);
    let functions = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = Symbols::of(program)?.linked_names(functions.lines());
    let list: String = names.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
    // The name tells cargo of a change.
    let key: String = Sha256::digest(&list).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let list_path = folder(ctx).join(key);
    if list_path.is_file() {
        return Ok(false);
    }
    match fs::remove_dir_all(folder(ctx)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(folder(ctx))?,
    }
    fs::write(list_path, list)?;
    Ok(true)
}

fn folder(ctx: &Ctx) -> PathBuf {
    ctx.target.join("start-order")
}
