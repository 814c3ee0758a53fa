//! How images are read and written: by which calls, with and without the host's page cache, and how durably. They are on
//! block devices of the lab's, made of memory (`null_blk`), which count their flushes and can have bad blocks.

use anyhow::{Context, ensure};
use tests::Guest;

use super::{DONE, sums};

/// Makes the block device `$1` of `$2` MiB with further settings `NAME=VALUE`, and sets `$b` to it.
const BLOCK: &str = "mount -t configfs none /sys/kernel/config 2>/dev/null; \
    block() { b=/dev/$1 c=/sys/kernel/config/nullb/$1; mkdir $c; echo $2 >$c/size; shift 2; \
    for set in memory_backed=1 $*; do echo ${set#*=} >$c/${set%=*}; done; echo 1 >$c/power; \
    [ -b $b ] || b=/dev/nullb$(cat $c/index); [ -b $b ] || exit; };";

/// All combinations beside each other, on files and on a device. The guest writes the same random data to all of them, out
/// of order, and reads it back without its cache; what is then in the files and on the device is the same.
pub fn data(transport: &str, memory: &str) -> Guest {
    // The guest says by the first bytes of an image that it is up, and hears at its console that it may go on.
    let script = format!(
        "{BLOCK} block data 64; mke2fs -F $b >/dev/null; mkdir -p /tmp/fs; mount -t ext4 $b /tmp/fs || exit; \
         block direct 2; ln -sf $b /tmp/device; cd /tmp/fs; \
         for i in a b c d e; do truncate -s 2M $i; done; cd /; \
         mkfifo /tmp/in; exec 3<>/tmp/in; \"$@\" <&3 3>&- & vm=$!; \
         until head -c 2 /tmp/fs/c | grep -q go; do kill -0 $vm || exit; sleep 0.1; done; \
         echo lab: $(grep -l 'flags:.*[4-7]....$' /proc/$vm/fdinfo/* | wc -l) direct, \
         $(ls -l /proc/$vm/fd | grep -c io_uring) rings >&2; echo >&3; wait $vm; code=$?; \
         echo 3 >/proc/sys/vm/drop_caches; for i in fs/a fs/b fs/c fs/d fs/e device; do \
         head -c 524288 /tmp/$i | md5sum; done; umount /tmp/fs; exec 3>&-; rm /tmp/in; \
         for d in data direct; do rmdir /sys/kernel/config/nullb/$d; done; exit $code"
    );
    let disks = [
        "path=/tmp/fs/a,direct,io=uring",
        "path=/tmp/fs/b,direct,io=sync",
        "path=/tmp/fs/c,io=uring",
        "path=/tmp/fs/d,io=sync,cache=unsafe",
        "path=/tmp/fs/e,direct,io=uring,cache=writethrough",
        "path=/tmp/device,direct,io=uring,queues=2",
    ];
    let guest = Guest::new(&format!("fast::{transport}::engines"))
        .within(&["sh", "-c", &script, "sh"])
        .flag("kernel", "{fast}")
        .flag("initrd", "{bare}")
        .flag("transport", transport)
        .flag("memory", memory)
        .flag("cpus", "2");
    disks
        .into_iter()
        .fold(guest, |guest, disk| guest.flag("disk", disk))
        .shell(
            "mdev -s; dd if=/dev/urandom of=/tmp/data bs=64k count=8 2>/dev/null; \
             echo go | dd of=/dev/vdc conv=fsync,notrunc 2>/dev/null; read go; \
             put() { dd if=/tmp/data of=/dev/$1 bs=$2 skip=$3 seek=$3 count=$4 conv=notrunc$5; }; \
             shuffle() { for at in 5 3 7 0 6; do put $1 64k $at 1; done; \
             for at in 100 7 51 33; do put $1 4k $at 9 ,fsync; done; \
             dd if=/tmp/data of=/dev/$1 bs=128k conv=notrunc oflag=direct; put $1 512 77 33 ,fsync; }; \
             for d in a b c d e f; do shuffle vd$d 2>/dev/null & done; wait; \
             echo 3 >/proc/sys/vm/drop_caches; for d in /dev/vd?; do \
             dd if=$d bs=4k count=128 iflag=direct 2>/dev/null | cmp - /tmp/data && \
             cmp -n 524288 $d /tmp/data && echo $d as written; done; md5sum </tmp/data; echo guest: done",
        )
        .complains("lab: 4 direct, 4 rings")
        .look(|report| {
            let shown = String::from_utf8_lossy(&report.stdout);
            let read = shown.lines().filter(|line| line.trim_end().ends_with(" as written")).count();
            let sums = sums(&shown);
            ensure!((read, sums.len()) == (6, 7), "{read} disks, {} sums", sums.len());
            ensure!(sums.iter().all(|&sum| sum == sums[0]), "not the same in all images: {sums:?}");
            Ok(())
        })
        .says(DONE)
}

/// What each kind of cache has flushed to the device below, by the device's own count.
pub fn caches() -> Guest {
    let disks = ["writeback", "writeback", "writethrough", "unsafe"];
    let script = format!(
        "{BLOCK} all=; for d in 0 1 2 3; do block cache$d 2 cache_size=1; all=$all\\ $b; \
         ln -sf $b /tmp/cache$d; done; \
         flushes() {{ for b in $all; do tr -s ' ' <${{b/dev/sys\\/block}}/stat | cut -d' ' -f17; done; }}; \
         \"$@\"; code=$?; echo flushes: $(flushes); \
         for d in 0 1 2 3; do rmdir /sys/kernel/config/nullb/cache$d; done; exit $code"
    );
    let guest = Guest::new("fast::caches")
        .within(&["sh", "-c", &script, "sh"])
        .flag("kernel", "{fast}")
        .flag("initrd", "{bare}");
    (0..4)
        .zip(disks)
        .fold(guest, |guest, (number, cache)| {
            guest.flag("disk", &format!("path=/tmp/cache{number},cache={cache}"))
        })
        // Eight writes to each, and what flushes only to the last three.
        .shell(
            "mdev -s; exec 2>/dev/null; \
             for d in a b c d; do dd if=/dev/zero of=/dev/vd$d bs=4k count=8 oflag=direct; done; \
             for d in b c d; do dd if=/dev/zero of=/dev/vd$d bs=4k count=1 conv=fsync; done; \
             echo guest: done",
        )
        .look(|report| {
            let shown = String::from_utf8_lossy(&report.stdout);
            let told = shown.lines().find_map(|line| line.trim_end().strip_prefix("flushes: "));
            let counts: Vec<u32> =
                told.context("no counts")?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let right = matches!(counts[..], [0, 1..8, 8..=u32::MAX, 0]);
            ensure!(right, "writeback, the same with a flush, writethrough, unsafe: {counts:?} flushes");
            Ok(())
        })
        .says(DONE)
}

/// A block that cannot be read, for each way of reading: the guest hears of it, and reads the rest.
pub fn bad_blocks() -> Guest {
    let script = format!(
        "{BLOCK} block bad 8; dd if=/dev/urandom of=$b bs=1M count=8 2>/dev/null; ln -sf $b /tmp/bad; \
         echo 3 >/proc/sys/vm/drop_caches; echo +8192-8199 >/sys/kernel/config/nullb/bad/badblocks; \
         {READ}; look /tmp/bad; \"$@\"; code=$?; rmdir /sys/kernel/config/nullb/bad; exit $code"
    );
    let disks = ["io=sync", "io=sync,direct", "io=uring", "io=uring,direct", "overlay=tmp"];
    let guest = Guest::new("fast::bad_blocks")
        .within(&["sh", "-c", &script, "sh"])
        .flag("kernel", "{fast}")
        .flag("initrd", "{bare}");
    disks
        .into_iter()
        .fold(guest, |guest, how| guest.flag("disk", &format!("path=/tmp/bad,readonly,{how}")))
        .shell(&format!("dmesg -n 1; mdev -s; {READ}; for d in /dev/vd?; do look $d; done; echo guest: done"))
        .look(|report| {
            // The lab's own look, and the guest's by five ways.
            let shown = String::from_utf8_lossy(&report.stdout);
            let errors = shown.lines().filter(|line| line.trim_end() == "error 1").count();
            let sums = sums(&shown);
            ensure!((errors, sums.len()) == (6, 18), "{errors} errors, {} sums", sums.len());
            let others: Vec<&[&str]> = sums.chunks(3).filter(|&other| other != &sums[..3]).collect();
            ensure!(others.is_empty(), "{others:?} are not {:?}", &sums[..3]);
            Ok(())
        })
        .says(DONE)
}

/// For a shell: reads the bad block of `$1`, and then others.
const READ: &str = "look() { echo error $(dd if=$1 of=/dev/null bs=4k skip=1024 count=1 iflag=direct 2>&1 | \
    grep -c 'Input/output error'); for at in 0 1020 1025; do \
    dd if=$1 bs=4k skip=$at count=4 iflag=direct 2>/dev/null | md5sum; done; }";
