//! qcow2 images on top of others: what a guest reads through them and writes, and that what is below stays as it is.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::Guest;
use xtask::lab::Lab;

use super::DONE;

const CLUSTER: usize = 64 << 10;
/// Clusters of a disk.
const CLUSTERS: usize = 16;

/// A cluster that an image has itself, by its number: data, or none for what reads as zeroes.
type Own<'a> = (usize, Option<&'a [u8]>);

/// Has `lab` get a raw image that is shorter than what stands on it, a qcow2 image on top of it, another on top of that, and
/// what is to be seen in each.
pub fn files(lab: &mut Lab, place: &Path) -> Result<()> {
    let contents = |salt: usize, clusters: usize| -> Vec<u8> {
        (0..clusters * CLUSTER).map(|at| ((at ^ at >> 9).wrapping_mul(salt) >> 3) as u8).collect()
    };
    let (base, middle, top) = (contents(0x9e37, 8), contents(0x85eb, 1), contents(0xc2b2, 1));
    let mut view = base.clone();
    view.resize(CLUSTERS * CLUSTER, 0);
    let layers: [(&str, &str, [Own<'_>; 3]); 2] = [
        ("middle", "base", [(1, Some(&middle)), (5, None), (10, Some(&middle))]),
        ("top", "middle", [(2, Some(&top)), (10, None), (11, Some(&top))]),
    ];
    let mut files = vec![("base".to_owned(), base)];
    for (name, below, clusters) in layers {
        for (index, data) in clusters {
            let part = &mut view[index * CLUSTER..][..CLUSTER];
            part.copy_from_slice(data.unwrap_or(&[0; CLUSTER]));
        }
        let below = if below == "base" { ("base", "raw") } else { ("middle.qcow2", "qcow2") };
        files.extend([
            (format!("{name}.qcow2"), image(below, &clusters)),
            (format!("{name}.view"), view.clone()),
        ]);
    }
    for (name, bytes) in files {
        let path = place.join(&name);
        fs::write(&path, bytes)?;
        lab.file(&name, &path);
    }
    Ok(())
}

/// A qcow2 image (header of version 3) on top of a file of this name and format, with these clusters of its own.
fn image((below, format): (&str, &str), clusters: &[Own<'_>]) -> Vec<u8> {
    const HEADER: usize = 104;
    const BACKING_FORMAT: u32 = 0xe279_2aca;
    const COPIED: u64 = 1 << 63;
    const ZERO: u64 = 1;
    // Header, table and block of reference counts, both levels of tables, data.
    let [counts, block, first, second, data] = [1, 2, 3, 4, 5_u64].map(|cluster| cluster * CLUSTER as u64);
    let extension =
        [&BACKING_FORMAT.to_be_bytes(), &(format.len() as u32).to_be_bytes()[..], format.as_bytes()].concat();
    let name_at = HEADER + extension.len().next_multiple_of(8) + 8;
    let mut image = b"QFI\xfb\x00\x00\x00\x03".to_vec();
    image.extend((name_at as u64).to_be_bytes());
    image.extend((below.len() as u32).to_be_bytes());
    image.extend(CLUSTER.ilog2().to_be_bytes());
    image.extend(((CLUSTERS * CLUSTER) as u64).to_be_bytes());
    // No encryption, one entry of the first table.
    image.extend([0_u32, 1].map(u32::to_be_bytes).as_flattened());
    image.extend([first, counts].map(u64::to_be_bytes).as_flattened());
    // One cluster of the table of reference counts, no snapshots.
    image.extend([1_u32, 0].map(u32::to_be_bytes).as_flattened());
    // Snapshots, three sets of features.
    image.extend([0; 32]);
    // Reference counts of 16 bits.
    image.extend([4, HEADER as u32].map(u32::to_be_bytes).as_flattened());
    image.extend(extension);
    image.resize(name_at, 0);
    image.extend(below.as_bytes());

    let mut put = |at: u64, bytes: &[u8]| {
        image.resize(image.len().max(at as usize + bytes.len()).next_multiple_of(CLUSTER), 0);
        image[at as usize..][..bytes.len()].copy_from_slice(bytes);
    };
    put(counts, &block.to_be_bytes());
    put(first, &(second | COPIED).to_be_bytes());
    let mut end = data;
    for &(index, contents) in clusters {
        let mut entry = ZERO;
        if let Some(contents) = contents {
            put(end, contents);
            entry = end | COPIED;
            end += CLUSTER as u64;
        }
        put(second + 8 * index as u64, &entry.to_be_bytes());
    }
    let used = 1_u16.to_be_bytes().repeat((end / CLUSTER as u64) as usize);
    put(block, &used);
    image
}

/// Images on images, in place and with overlays. The guest sees what was made, writes parts of clusters of all kinds, and
/// reads them back; a second VM sees what was written, but for what only a temporary file had. What is below is never
/// written.
pub fn guest() -> Guest {
    const SCRIPT: &str = "sha256sum {base} {middle.qcow2} >/tmp/sums; \"$@\" && \"$@\"; code=$?; \
        sha256sum -c /tmp/sums >&2; exit $code";
    Guest::new("fast::qcow2_on_others")
        .within(&["sh", "-c", SCRIPT, "sh"])
        .flag("kernel", "{fast}")
        .flag("initrd", "{bare}")
        .flag("disk", "path={top.qcow2}")
        .flag("disk", "path={middle.qcow2},overlay=tmp")
        .flag("disk", "path={middle.qcow2},overlay=/tmp/overlay.qcow2")
        .flag("disk", "path={top.view},readonly")
        .flag("disk", "path={middle.view},readonly")
        // 8 KiB at a time: in clusters of the base, of each image, of zeroes, behind the base's end, and across two.
        .shell(
            "mdev -s; put() { for at in 3 17 31 36 85 127 140 163 180 250; do \
             dd if=/bin/busybox of=$1 bs=4k skip=$at seek=$at count=2 conv=notrunc; done 2>/dev/null; sync; }; \
             for d in 'vda vdd' 'vdb vde' 'vdc vde'; do set $d; cp /dev/$2 /tmp/view; put /tmp/view; \
             cmp -s /dev/$1 /dev/$2 && echo $1 as made; cmp -s /dev/$1 /tmp/view && echo $1 as left; \
             put /dev/$1; echo 3 >/proc/sys/vm/drop_caches; cmp /dev/$1 /tmp/view && echo $1 as written; \
             done; echo guest: done",
        )
        .look(|report| {
            let shown = String::from_utf8_lossy(&report.stdout);
            let seen: Vec<_> = shown.lines().filter_map(|line| line.trim_end().split_once(" as ")).collect();
            let all = |found: [&'static str; 3]| {
                let disks = ["vda", "vdb", "vdc"].into_iter().zip(found);
                disks.flat_map(|(disk, found)| [(disk, found), (disk, "written")])
            };
            let first = all(["made", "made", "made"]);
            let expected: Vec<_> = first.chain(all(["left", "made", "left"])).collect();
            ensure!(seen == expected, "{seen:?}");
            Ok(())
        })
        .complains("base: OK")
        .complains("middle.qcow2: OK")
        .says(DONE)
}
