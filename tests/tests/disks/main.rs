//! Linux on disks: file systems as roots, data that is written and read back, and what breaks under a guest.

mod engines;
mod limits;
mod qcow2;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use tests::{Guest, suite};
use xtask::ctx::Ctx;
use xtask::images::{self, FileSystem};
use xtask::kernel::Kernel;
use xtask::lab::Lab;

/// What a workload says when it has come to its end.
const DONE: &str = "guest: done";
/// What Debian's kernel needs for disks, and for what is on them.
const MODULES: [&str; 6] = ["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_pmem", "nd_pmem", "erofs"];
/// Files and guests lie in the lab's memory.
const LAB_MIB: u32 = 3072;
/// Writes random data to the disk `$d` in pieces of several sizes, out of order, and compares what it reads back without
/// the guest's cache, whole and in pieces.
const SHUFFLE: &str = "until [ -b $d ]; do sleep 0.1; done; \
    dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null; echo random; \
    for at in 9 3 12 0 15 6; do dd if=/tmp/data of=$d bs=64k skip=$at seek=$at count=1 conv=notrunc 2>/dev/null; done; \
    for at in 200 7 100 33; do dd if=/tmp/data of=$d bs=4k skip=$at seek=$at count=9 conv=notrunc,fsync 2>/dev/null; done; \
    dd if=/tmp/data of=$d bs=256k conv=notrunc,fsync 2>/dev/null; echo written; \
    echo 3 > /proc/sys/vm/drop_caches; dd if=$d bs=1M count=1 2>/dev/null | cmp - /tmp/data && echo whole; \
    echo 3 > /proc/sys/vm/drop_caches; dd if=$d bs=4k skip=33 count=100 2>/dev/null | md5sum; \
    dd if=/tmp/data bs=4k skip=33 count=100 2>/dev/null | md5sum; ";

fn main() -> ExitCode {
    suite::run(trials)
}

fn trials(ctx: &Ctx, place: &Path) -> Result<Vec<Trial>> {
    let mut lab = lab(ctx, place)?;
    let mut guests = debian();
    if suite::fast(ctx, &mut lab)? {
        guests.extend(tuned());
        guests.push(limits::guest());
        guests.push(engines::data("mmio", "128M"));
        guests.push(engines::data("pci", "128M,prealloc"));
        guests.push(engines::caches());
        guests.push(engines::bad_blocks());
        guests.push(qcow2::guest());
    }
    guests.extend(ends());
    suite::guests(ctx, lab, guests)
}

/// The lab has Debian's kernel, an initramfs that loads the modules and one for a kernel that needs none, and images.
fn lab(ctx: &Ctx, place: &Path) -> Result<Lab> {
    let mut lab = suite::nested_lab(ctx)?;
    lab.memory_mib = LAB_MIB;
    suite::debian(ctx, &mut lab, place, &MODULES)?;
    for (name, kind) in [("ext4", FileSystem::Ext4), ("erofs", FileSystem::Erofs)] {
        let image = place.join(name);
        images::system(ctx, kind, 16, &[], &image)?;
        lab.file(name, &image);
    }
    let blank = place.join("blank");
    fs::write(&blank, vec![0; 8 << 20])?;
    lab.file("blank", &blank);
    let bare = place.join("bare");
    fs::write(&bare, suite::initramfs(ctx, &Kernel::debian(ctx)?, &[])?.build()?)?;
    lab.file("bare", &bare);
    lab.modules.push("null_blk".to_owned());
    qcow2::files(&mut lab, place)?;
    Ok(lab)
}

/// What `md5sum` has shown of its standard input, each time.
fn sums(shown: &str) -> Vec<&str> {
    shown.lines().filter_map(|line| line.trim_end().strip_suffix("  -")).collect()
}

fn linux(name: &str) -> Guest {
    Guest::new(name).flag("kernel", "{kernel}").flag("initrd", "{initrd}")
}

fn debian() -> Vec<Guest> {
    let mut all = Vec::new();
    for transport in ["mmio", "pci"] {
        let guest = |name: &str| linux(&format!("debian::{transport}::{name}")).flag("transport", transport);
        all.push(
            guest("file_systems")
                .flag("disk", "path={ext4},overlay=tmp,serial=the root")
                .flag("disk", "path={erofs},readonly")
                .shell(
                    "until [ -b /dev/vda ] && [ -b /dev/vdb ]; do sleep 0.1; done; mkdir /mnt; mount -t ext4 /dev/vda /mnt && echo text > /mnt/file && sync && mount -t erofs -o ro /dev/vdb /run && \
                     cmp /mnt/bin/busybox /run/bin/busybox && cat /sys/block/vda/serial && echo && cat /sys/block/vdb/ro; \
                     chroot /run /bin/sh -c 'echo inside erofs'; chroot /mnt /bin/sh -c 'echo inside ext4 > /file; cat /file'; \
                     umount /mnt && echo guest: done",
                )
                .says("the root")
                .says("1")
                .says("inside erofs")
                .says("inside ext4")
                .says(DONE),
        );
        all.push(
            guest("in_place")
                .flag("pmem", "path={erofs},readonly")
                .flag("pmem", "path={ext4},private")
                .shell(
                    "mkdir /mnt; mount -t erofs -o ro,dax=always /dev/pmem0 /run && mount -t ext4 -o dax=always /dev/pmem1 /mnt && \
                     cmp /mnt/bin/busybox /run/bin/busybox && chroot /run /bin/sh -c 'echo inside erofs'; \
                     chroot /mnt /bin/sh -c 'echo inside ext4 > /file; cat /file' && sync && echo guest: done",
                )
                .says("inside erofs")
                .says("inside ext4")
                .says(DONE),
        );
        all.push(
            guest("data")
                .flag("cpus", "2")
                .flag("disk", "path={blank},overlay=tmp,queues=2")
                .shell(&format!("d=/dev/vda; {SHUFFLE} echo guest: done"))
                .says("whole")
                .look(|report| {
                    let shown = String::from_utf8_lossy(&report.stdout);
                    let sums = sums(&shown);
                    ensure!(sums.len() == 2 && sums[0] == sums[1], "read back: {sums:?}");
                    Ok(())
                })
                .says(DONE),
        );
    }
    all.push(
        linux("debian::discard_and_zeroes")
            .flag("disk", "path={blank}")
            .shell(
                "dd if=/dev/urandom of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null; blkdiscard -l 2M /dev/vda; \
                 cat /sys/block/vda/queue/discard_max_bytes; cat /sys/block/vda/queue/write_zeroes_max_bytes; \
                 dd if=/dev/vda bs=1M count=2 2>/dev/null | tr -d '\\0' | wc -c; echo guest: done",
            )
            .says("268435456")
            .says("0")
            .says(DONE),
    );
    all
}

/// Roots of the kernel `fast`, which has all drivers built in.
fn tuned() -> Vec<Guest> {
    let mut all = Vec::new();
    for transport in ["mmio", "pci"] {
        for (kind, words) in [("ext4", "rw"), ("erofs", "ro")] {
            let guest = Guest::new(&format!("fast::{transport}::{kind}_root"));
            all.push(
                guest
                    .flag("kernel", "{fast}")
                    .flag("transport", transport)
                    .flag("disk", &format!("path={{{kind}}},overlay=tmp"))
                    .kernel_words(&format!("root=/dev/vda rootfstype={kind} {words} init=/sbin/init"))
                    .shell("grep ' / ' /proc/mounts; md5sum /bin/busybox; echo guest: done")
                    .look(move |report| {
                        let shown = String::from_utf8_lossy(&report.stdout);
                        let root = format!("/dev/root / {kind} {words}");
                        ensure!(shown.contains(&root), "the root is not {root}");
                        Ok(())
                    })
                    .says(DONE),
            );
            // Read in place, out of the host's page cache.
            let guest = Guest::new(&format!("fast::{transport}::{kind}_root_in_place"));
            let access = if words == "ro" { "readonly" } else { "private" };
            all.push(
                guest
                    .flag("kernel", "{fast}")
                    .flag("transport", transport)
                    .flag("pmem", &format!("path={{{kind}}},{access}"))
                    .kernel_words(&format!(
                        "root=/dev/pmem0 rootfstype={kind} rootflags=dax=always {words} init=/sbin/init"
                    ))
                    .shell("grep ' / ' /proc/mounts; md5sum /bin/busybox; echo guest: done")
                    .look(move |report| {
                        let shown = String::from_utf8_lossy(&report.stdout);
                        let mounted = shown.lines().find(|line| line.contains(&format!(" / {kind} {words}")));
                        ensure!(mounted.is_some_and(|line| line.contains("dax=always")), "no root with DAX");
                        Ok(())
                    })
                    .says(DONE),
            );
        }
        all.push(
            Guest::new(&format!("fast::{transport}::what_is_synced_is_in_the_file"))
                .within(&[
                    "/bin/sh",
                    "-c",
                    "cp {ext4} /tmp/pmem && \"$@\" && grep -c 'the text' /tmp/pmem",
                    "sh",
                ])
                .flag("kernel", "{fast}")
                .flag("transport", transport)
                .flag("pmem", "path=/tmp/pmem")
                .kernel_words("root=/dev/pmem0 rootfstype=ext4 rootflags=dax=always rw init=/sbin/init")
                .shell("echo the text > /file; sync; echo guest: done")
                .says("1")
                .says(DONE),
        );
    }
    // It is built for reduced hardware alone, and has to end on a machine that has all of it.
    all.push(
        Guest::new("fast::legacy_machine")
            .flag("kernel", "{fast}")
            .flag("machine", "legacy")
            .flag("disk", "path={erofs},readonly")
            .kernel_words("root=/dev/vda rootfstype=erofs ro init=/sbin/init")
            .shell("grep -q ' / erofs' /proc/mounts && echo guest: done")
            .says(DONE),
    );
    // Discarding in an overlay hides what its base has; the guest sees how large a sector is, and that there is no cache.
    all.push(
        Guest::new("fast::overlay_of_a_base_with_data")
            .flag("kernel", "{fast}")
            .flag("disk", "path={ext4},overlay=tmp")
            .flag("disk", "path={erofs},overlay=tmp,cache=writethrough,physical-block-size=8K")
            .kernel_words("root=/dev/vda rootfstype=ext4 rw init=/sbin/init")
            .shell(
                "mdev -s; cd /sys/block/vdb/queue; cat write_cache physical_block_size; \
                 bytes() { echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vdb bs=64k skip=$1 count=1 2>/dev/null | tr -d '\\0' | wc -c; }; \
                 [ $(bytes 0) -gt 0 ] && [ $(bytes 1) -gt 0 ] && echo base has data; blkdiscard -l 65536 /dev/vdb; \
                 echo left $(bytes 0); [ $(bytes 1) -gt 0 ] && echo the rest is there; \
                 dd if=/proc/cmdline of=/dev/vdb conv=fsync,notrunc 2>/dev/null; \
                 echo 3 > /proc/sys/vm/drop_caches; grep -c root=/dev/vda /dev/vdb; echo guest: done",
            )
            .says("write through")
            .says("8192")
            .says("base has data")
            .says("left 0")
            .says("the rest is there")
            .says("1")
            .says(DONE),
    );
    // Disks that the kernel's command line names; ACPI has but the device that is to be found through it.
    all.push(
        Guest::new("fast::mmio_cmdline")
            .flag("kernel", "{fast}")
            .flag("machine", "legacy")
            .flag("disk", "path={ext4},overlay=tmp,transport=mmio-cmdline")
            .flag("disk", "path={blank},overlay=tmp,serial=second,transport=mmio-cmdline")
            .args(&["--rng"])
            .kernel_words("root=/dev/vda rootfstype=ext4 rw init=/sbin/init")
            .shell(&format!(
                "mdev -s; d=/dev/vdb; {SHUFFLE} tr ' ' '\\n' < /proc/cmdline | grep 0x1000@; \
                 cat /sys/block/vdb/serial; echo; ls -d /sys/bus/acpi/devices/LNRO0005:* | wc -l; \
                 grep -E '^ *1[01]:.*virtio' /proc/interrupts | wc -l; echo guest: done; reboot -f"
            ))
            .says("whole")
            .says("second")
            .look(|report| {
                let shown = String::from_utf8_lossy(&report.stdout);
                let words = shown.lines().filter(|line| line.starts_with("virtio_mmio.device=")).count();
                let counts: Vec<&str> =
                    shown.lines().map(str::trim_end).filter(|line| ["1", "2"].contains(line)).collect();
                ensure!(
                    (words, counts.as_slice()) == (2, ["1", "2"].as_slice()),
                    "{words} words, {counts:?}"
                );
                Ok(())
            })
            .says(DONE),
    );
    all
}

/// Disks that fail under a living guest.
fn ends() -> Vec<Guest> {
    let fails = |name: &str, prepare: &str, disk: &str| {
        let script = format!("{prepare} exec \"$@\"");
        linux(&format!("ends::{name}"))
            .within(&["/bin/sh", "-c", &script, "sh"])
            .flag("disk", disk)
            .shell(
                "dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync,notrunc 2>&1 | grep -c error; \
                 dd if=/dev/vda of=/dev/null bs=64k count=1 2>/dev/null && echo still reads; echo guest: done",
            )
            .says("1")
            .says("still reads")
            .says(DONE)
    };
    // It says in the file that it writes when the one that it reads may become shorter.
    let shorter = |name: &str, written: &str, disk: &str| {
        let script = format!(
            "cp {{blank}} /tmp/shorter; \"$@\" & vm=$!; until grep -qs 'cut it' {written}; do \
             kill -0 $vm || exit; sleep 0.1; done; truncate -s 1M /tmp/shorter; wait $vm"
        );
        linux(&format!("ends::{name}")).within(&["/bin/sh", "-c", &script, "sh"]).flag("disk", disk).shell(
            "until [ -b /dev/vda ]; do sleep 0.1; done; piece() { dd if=/dev/vda of=/dev/null bs=64k skip=$1 count=1 2>/dev/null; }; \
             echo cut it | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null; \
             while piece 64; do echo 3 > /proc/sys/vm/drop_caches; done; \
             echo the end is gone; echo 3 > /proc/sys/vm/drop_caches; piece 0 && echo still reads; echo guest: done",
        )
        .says("the end is gone")
        .says(DONE)
    };
    vec![
        shorter("shorter", "/tmp/shorter", "path=/tmp/shorter").says("still reads"),
        // What is below an overlay would read as zeroes, so that disk has ended.
        shorter("shorter_base", "/tmp/overlay", "path=/tmp/shorter,overlay=/tmp/overlay"),
        fails(
            "full",
            "mkdir -p /tmp/small; mount -t tmpfs -o size=1m tmpfs /tmp/small; truncate -s 8M /tmp/small/disk;",
            "path=/tmp/small/disk",
        ),
        fails(
            "full_overlay",
            "mkdir -p /tmp/tiny; mount -t tmpfs -o size=1m tmpfs /tmp/tiny;",
            "path={blank},overlay=/tmp/tiny/overlay",
        ),
    ]
}
