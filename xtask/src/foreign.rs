//! What other people boot, from Debian's packages: a memory tester that brings its own screen and timers, a network boot
//! loader that asks the BIOS for all it needs, and a hypervisor whose first guest is a module.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::ctx::Ctx;
use crate::{cache, debs, unpack};

const MEMTEST: &str = "memtest86+";
const IPXE: &str = "ipxe";
const XEN: &str = "xen-hypervisor-4.17-amd64";
/// For the memory tester: on the serial port, and at once.
pub const MEMTEST_CMDLINE: &str = "console=ttyS0,115200 nobench nosm nopause";
/// For the hypervisor; by Multiboot, the first word is the kernel's own name. QEMU emulates SMAP so that Xen cannot reach
/// its first guest.
pub const XEN_CMDLINE: &str = "xen console=com1 com1=115200,8n1 dom0_mem=256M smap=0 smep=0 noreboot";
/// For a Linux that the hypervisor starts.
pub const DOM0_CMDLINE: &str = "vmlinuz console=hvc0 earlyprintk=xen panic=-1";

/// Memtest86+, a `bzImage`.
pub fn memtest(ctx: &Ctx) -> Result<PathBuf> {
    Ok(debs::get(ctx, MEMTEST, None)?.path.join("boot/memtest86+x64.bin"))
}

/// iPXE, which to loaders is a Linux of old, entered in real mode.
pub fn ipxe(ctx: &Ctx) -> Result<PathBuf> {
    Ok(debs::get(ctx, IPXE, None)?.path.join("boot/ipxe.lkrn"))
}

/// Xen, an ELF file with a Multiboot header, unpacked; kept in the cache.
pub fn xen(ctx: &Ctx) -> Result<PathBuf> {
    let package = debs::get(ctx, XEN, None)?;
    let folder = cache::folder(ctx, &format!("xen-{}", package.record.sha256), |place| {
        let path = package.path.join("boot/xen-4.17-amd64.gz");
        let packed = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(fs::write(place.join("xen"), unpack::all(&packed)?)?)
    })?;
    Ok(folder.join("xen"))
}
