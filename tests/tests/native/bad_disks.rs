//! Disk images and files for persistent memory that cannot be: each is refused as other bad input is.

use std::fs;
use std::path::Path;

use anyhow::Result;
use tests::Guest;
use xtask::lab::Lab;

use super::bad_input::refused;

/// A case: its name, a flag and its value, and what the one line must contain.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    ("absent", "disk", "path=/no/such.img", &["--disk /no/such.img", "No such file"]),
    ("folder", "disk", "path=/", &["--disk /"]),
    ("folder_to_read", "disk", "path=/,readonly", &["--disk /", "neither a regular file"]),
    ("no_descriptor", "disk", "path=fd:77", &["--disk fd:77"]),
    ("empty", "disk", "path={disk_empty}", &["{disk_empty}", "empty or was cut short"]),
    ("cut", "disk", "path={disk_cut}", &["{disk_cut}", "700 bytes"]),
    ("unknown_option", "disk", "path={disk},colour=red", &["--disk", "`colour`"]),
    ("no_path", "disk", "overlay=tmp", &["--disk", "`path`"]),
    ("overlay_nowhere", "disk", "path={disk},overlay=/no/such/o.qcow2", &["--disk /no/such/o.qcow2"]),
    ("qcow2_that_is_not_said_to_be", "disk", "path={qcow2_lost}", &["{qcow2_lost}", "say format=qcow2"]),
    (
        "qcow2_header_cut",
        "disk",
        "path={qcow2_header_cut},format=qcow2",
        &["{qcow2_header_cut}", "too short"],
    ),
    ("qcow2_hostile_header", "disk", "path={qcow2_hostile},format=qcow2", &["{qcow2_hostile}", "L1 table"]),
    ("qcow2_loop", "disk", "path={qcow2_loop},format=qcow2,readonly", &["backing file of", "is a loop"]),
    (
        "qcow2_base_absent",
        "disk",
        "path={qcow2_lost},format=qcow2,readonly",
        &["{qcow2_lost}", "/no/such/base.raw"],
    ),
    ("pmem_absent", "pmem", "path=/no/such.img", &["--pmem /no/such.img", "No such file"]),
    ("pmem_cut", "pmem", "path={disk}", &["{disk}", "2097152-byte"]),
];

/// Waits until another VM has locked the disk, then executes its arguments.
const LOCKED: &str = "{jiffy} run --kernel {spin} --disk path={disk} >/dev/null 2>&1 & holder=$!; \
    until grep -q \":$(stat -c %i {disk}) \" /proc/locks || ! kill -0 $holder; do sleep 0.05; done; \
    \"$@\"; status=$?; kill $holder; wait $holder 2>/dev/null; exit $status";

/// All runs; adds to the lab the files that they need.
pub(crate) fn runs(lab: &mut Lab, place: &Path) -> Result<Vec<Guest>> {
    let files = [
        ("disk", vec![0; 1 << 20]),
        ("disk_empty", Vec::new()),
        ("disk_cut", vec![0; 700]),
        ("qcow2_header_cut", qcow2(b"", 1)[..20].to_vec()),
        ("qcow2_hostile", qcow2(b"", u32::MAX)),
        ("qcow2_loop", qcow2(b"qcow2_loop", 1)),
        ("qcow2_lost", qcow2(b"/no/such/base.raw", 1)),
    ];
    for (name, bytes) in files {
        let path = place.join(name);
        fs::write(&path, bytes)?;
        lab.file(name, &path);
    }
    let run = |name: &str, says| refused(&format!("bad_input::disk_{name}"), says).flag("kernel", "{mark}");
    let mut runs: Vec<Guest> =
        CASES.iter().map(|&(name, flag, value, says)| run(name, says).flag(flag, value)).collect();
    let locked = run("locked", &["{disk}", "is in use by another program"]).flag("disk", "path={disk}");
    runs.push(locked.within(&["sh", "-c", LOCKED, "sh"]));
    let twice = run("twice", &["{disk}", "is in use by this VM's own --disk number 1"]);
    runs.push(twice.flag("disk", "path={disk}").flag("disk", "path={disk}"));
    let port = run("also_a_port", &["--port", "{disk}", "is the file that --disk names"]);
    runs.push(port.flag("disk", "path={disk}").flag("port", "name=a,file={disk}"));
    Ok(runs)
}

/// A qcow2 image of 1 MiB (header of version 2) without clusters, with this backing file and so many entries of its
/// first table.
fn qcow2(backing: &[u8], l1_size: u32) -> Vec<u8> {
    const HEADER: u32 = 72;
    let mut image = b"QFI\xfb\x00\x00\x00\x02".to_vec();
    image.extend(u64::from(HEADER * u32::from(!backing.is_empty())).to_be_bytes());
    image.extend((backing.len() as u32).to_be_bytes());
    // Clusters of 64 KiB, size, encryption, first table, table of reference counts, snapshots.
    image.extend(16_u32.to_be_bytes());
    image.extend((1_u64 << 20).to_be_bytes());
    image.extend([0, l1_size].map(u32::to_be_bytes).as_flattened());
    image.extend([0x3_0000_u64, 0x1_0000].map(u64::to_be_bytes).as_flattened());
    image.extend([1, 0].map(u32::to_be_bytes).as_flattened());
    image.extend(0_u64.to_be_bytes());
    image.extend(backing);
    image.resize(0x4_0000, 0);
    // Where the first block of reference counts is.
    image[0x1_0000..0x1_0008].copy_from_slice(&0x2_0000_u64.to_be_bytes());
    image
}
