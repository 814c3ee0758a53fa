//! QEMU's microvm inside a lab, with the libraries that it needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::ctx::Ctx;
use xtask::lab::{Lab, qemu};

use super::parts::Qemu;

/// What its machines start a PVH kernel with, in QEMU's own folders.
const ROMS: [&str; 4] = ["bios-microvm.bin", "bios-256k.bin", "linuxboot_dma.bin", "pvh.bin"];
const FOLDERS: [&str; 3] = ["/usr/share/qemu", "/usr/share/seabios", "/usr/lib/qemu"];
/// One virtio device by PCI would otherwise bring its ROM.
const NO_ROM: &str = "romfile=";

/// Puts QEMU into the lab.
pub(super) fn add(ctx: &Ctx, lab: &mut Lab) -> Result<()> {
    let program = qemu::find(ctx)?;
    let libraries = libraries(ctx, &program)?;
    let loader = libraries.iter().find(|path| is_loader(path)).context("QEMU has no dynamic linker")?;
    lab.file("qemu", &program).file("loader", loader);
    for library in &libraries {
        let name = library.file_name().context("a library without a name")?.to_string_lossy();
        lab.file(&name, library);
    }
    for rom in ROMS {
        let found = FOLDERS.iter().map(|folder| Path::new(folder).join(rom)).find(|path| path.is_file());
        lab.file(rom, &found.with_context(|| format!("QEMU has no {rom}"))?);
    }
    Ok(())
}

/// The words of a machine under KVM that boots `{kernel}` and `{initrd}` of the lab, with a device.
pub(super) fn words(pcie: bool, cmdline: &str, device: Qemu) -> Vec<String> {
    let (machine, memory, device) = match device {
        Qemu::Microvm(device) if pcie => ("microvm,accel=kvm,pcie=on", "512M", device),
        Qemu::Microvm(device) => ("microvm,accel=kvm", "512M", device),
        Qemu::Q35(device) => ("q35,accel=kvm", "512M,maxmem=1G", device),
    };
    let line = "folder=$(dirname {qemu}); exec {loader} --library-path $folder {qemu} -L $folder \"$@\"";
    let own = [
        ["/bin/sh", "-c"].as_slice(),
        &[line, "sh", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"],
        &["-M", machine, "-cpu", "host", "-m", memory, "-smp", "1", "-serial", "stdio"],
        &["-kernel", "{kernel}", "-initrd", "{initrd}", "-append", cmdline],
    ];
    let bus = |word: &&str| {
        let on_bus = word.replace("BUS", if pcie { "pci" } else { "device" });
        if pcie && on_bus != *word { format!("{on_bus},{NO_ROM}") } else { on_bus }
    };
    own.concat().into_iter().map(str::to_owned).chain(device.iter().map(bus)).collect()
}

fn is_loader(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"))
}

/// The files of all libraries that a program loads, the dynamic linker among them.
fn libraries(ctx: &Ctx, program: &Path) -> Result<Vec<PathBuf>> {
    let listed = ctx.read(Command::new("ldd").arg(program))?;
    let path = |line: &str| line.split_whitespace().map(PathBuf::from).find(|word| word.is_absolute());
    Ok(listed.lines().filter_map(path).collect())
}
