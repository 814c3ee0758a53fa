//! Disk images with a small system in them: `jiffy-init` and busybox.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ctx::Ctx;
use crate::{apt, built, initramfs};

/// What a file system is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Read and written.
    Ext4,
    /// Read only.
    Erofs,
}

/// Folders that a system wants to find, for mounts and links.
const FOLDERS: [&str; 9] = ["bin", "dev", "etc", "mnt", "proc", "run", "sbin", "sys", "tmp"];

/// Makes a file system in `image`, of `mib` MiB where it has a fixed size, with the folders of a root, `/sbin/init` and busybox's
/// commands in `/bin`. What is in `extra` goes to its top.
pub fn system(ctx: &Ctx, kind: FileSystem, mib: u64, extra: &[(&str, &Path)], image: &Path) -> Result<()> {
    let tree = tempfile::tempdir()?;
    let root = tree.path();
    for folder in FOLDERS {
        fs::create_dir(root.join(folder))?;
    }
    fs::copy(built::INIT.path(ctx)?, root.join("sbin/init"))?;
    let busybox = initramfs::busybox(ctx)?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for command in ctx.read(Command::new(&busybox).arg("--list"))?.lines() {
        if command != "busybox" {
            symlink("busybox", root.join("bin").join(command))?;
        }
    }
    for (name, file) in extra {
        fs::copy(file, root.join(name)).with_context(|| format!("cannot read {}", file.display()))?;
    }
    make(ctx, kind, mib, root, image)
}

/// Makes an ext4 of `mib` MiB in `image` that holds what is in the folder `tree`.
pub fn ext4(ctx: &Ctx, mib: u64, tree: &Path, image: &Path) -> Result<()> {
    make(ctx, FileSystem::Ext4, mib, tree, image)
}

fn make(ctx: &Ctx, kind: FileSystem, mib: u64, tree: &Path, image: &Path) -> Result<()> {
    let mut command = match kind {
        FileSystem::Ext4 => {
            File::create(image)?.set_len(mib << 20)?;
            let mut mkfs = Command::new(tool(ctx, "mkfs.ext4", "e2fsprogs")?);
            mkfs.args(["-q", "-F", "-b", "4096", "-E", "root_owner=0:0", "-d"]).arg(tree).arg(image);
            mkfs
        }
        FileSystem::Erofs => {
            let mut mkfs = Command::new(tool(ctx, "mkfs.erofs", "erofs-utils")?);
            mkfs.args(["--quiet", "--all-root", "-T0"]).arg(image).arg(tree);
            mkfs
        }
    };
    ctx.run(&mut command)?;
    // DAX maps whole huge pages, and disks count in sectors: a multiple of 2 MiB suits all.
    let file = File::options().write(true).open(image)?;
    Ok(file.set_len(file.metadata()?.len().next_multiple_of(2 << 20))?)
}

/// A program that users without privileges may not have in their `PATH`.
fn tool(ctx: &Ctx, name: &str, package: &str) -> Result<PathBuf> {
    let found = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    match found.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => apt::tool(ctx, name, package),
    }
}
