//! What cannot be: each is refused with one line that says what and where, exit status 125, and nothing is left
//! behind.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::Guest;
use xtask::ctx::Ctx;
use xtask::guests;
use xtask::kernel::Kernel;
use xtask::lab::{Lab, Way};
use xtask::probe::{self, Level};

/// A case: its name, the arguments of `jiffy run`, and what the one line must contain.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Beyond what a socket's name can hold.
const VERY_LONG: &str = "cid=3,path=/a/folder/whose/name/is/so/very/long/that/a/socket/in/it/could/not/have/one/as/\
    well/for/each/port/of/the/host";

const CASES: &[Case] = &[
    ("no_kernel", &[], &["--kernel"]),
    ("kernel_absent", &["--kernel", "/no/such/kernel"], &["/no/such/kernel", "No such file"]),
    ("kernel_is_a_folder", &["--kernel", "/"], &["/", "not a regular file"]),
    ("kernel_is_a_device", &["--kernel", "/dev/zero"], &["/dev/zero", "not a regular file"]),
    ("kernel_is_empty", &["--kernel", "{empty}"], &["{empty}", "bzImage"]),
    ("kernel_is_text", &["--kernel", "{text}"], &["{text}", "neither a bzImage"]),
    ("kernel_for_another_processor", &["--kernel", "{arm}"], &["{arm}", "x86"]),
    ("elf_header_cut", &["--kernel", "{elf_header_cut}"], &["{elf_header_cut}"]),
    ("elf_cut", &["--kernel", "{elf_cut}"], &["{elf_cut}"]),
    ("elf_segment_nowhere", &["--kernel", "{elf_nowhere}"], &["{elf_nowhere}"]),
    ("bzimage_header_cut", &["--kernel", "{bzimage_header_cut}"], &["{bzimage_header_cut}"]),
    ("bzimage_cut", &["--kernel", "{bzimage_cut}"], &["{bzimage_cut}"]),
    ("bzimage_damaged", &["--kernel", "{bzimage_damaged}"], &["{bzimage_damaged}"]),
    ("bzimage_bomb", &["--kernel", "{bomb}"], &["{bomb}"]),
    ("initrd_absent", &["--kernel", "{mark}", "--initrd", "/no/such/initrd"], &["/no/such/initrd"]),
    ("initrd_is_a_folder", &["--kernel", "{mark}", "--initrd", "/"], &["not a regular file"]),
    ("initrd_too_large", &["--kernel", "{mark}", "--initrd", "{large}"], &["{large}", "memory"]),
    ("initrd_without_kernel", &["--initrd", "{text}"], &["--kernel"]),
    ("firmware_is_empty", &["--firmware", "{empty}"], &["{empty}"]),
    ("firmware_too_large", &["--firmware", "{large}"], &["{large}"]),
    ("memory_0", &["--kernel", "{mark}", "--memory", "0"], &["--memory", "too little"]),
    ("memory_too_small", &["--kernel", "{mark}", "--memory", "1M"], &["--memory", "too little"]),
    ("memory_too_small_for_the_kernel", &["--kernel", "{bzimage}", "--memory", "16M"], &["vmlinuz", "MiB"]),
    ("memory_absurd", &["--kernel", "{mark}", "--memory", "1000T"], &["--memory", "more memory"]),
    ("memory_overflows", &["--kernel", "{mark}", "--memory", "99999999999999999999G"], &["--memory"]),
    ("memory_unaligned", &["--kernel", "{mark}", "--memory", "4194305B"], &["--memory", "4096"]),
    ("memory_not_a_size", &["--kernel", "{mark}", "--memory", "much"], &["--memory", "`much`"]),
    ("memory_unknown_option", &["--kernel", "{mark}", "--memory", "4M,fast"], &["--memory", "`fast`"]),
    ("cpus_0", &["--kernel", "{mark}", "--cpus", "0"], &["--cpus", "1 to 254"]),
    ("cpus_255", &["--kernel", "{mark}", "--cpus", "255"], &["--cpus", "1 to 254"]),
    ("cpus_negative", &["--kernel", "{mark}", "--cpus=-1"], &["--cpus", "1 to 254"]),
    ("cpus_1e9", &["--kernel", "{mark}", "--cpus", "1000000000"], &["--cpus", "1 to 254"]),
    ("unknown_flag", &["--kernel", "{mark}", "--memroy", "4M"], &["--memroy", "--memory"]),
    ("unknown_word", &["--kernel", "{mark}", "boot"], &["boot"]),
    ("unknown_protocol", &["--kernel", "{mark}", "--protocol", "multiboot"], &["multiboot", "pvh"]),
    ("kernel_lacks_the_protocol", &["--kernel", "{no_note}", "--protocol", "pvh"], &["{no_note}", "PVH"]),
    (
        "vsock_path_no_socket",
        &["--kernel", "{mark}", "--vsock", "cid=3,path={text}"],
        &["{text}", "no socket"],
    ),
    ("vsock_folder_absent", &["--kernel", "{mark}", "--vsock", "cid=3,path=/no/such/s"], &["/no/such/s"]),
    ("vsock_path_too_long", &["--kernel", "{mark}", "--vsock", VERY_LONG], &["--vsock", "shorten it to 97"]),
    (
        "vsock_of_the_host",
        &["--kernel", "{mark}", "--vsock", "cid=2,path=/s"],
        &["--vsock", "3 to 4294967294"],
    ),
    ("vsock_no_socket", &["--kernel", "{mark}", "--vsock", "cid=3,path=fd:2"], &["--vsock fd:2", "listens"]),
    ("vsock_no_descriptor", &["--kernel", "{mark}", "--vsock", "cid=3,path=fd:999"], &["--vsock fd:999"]),
    (
        "mmio_cmdline_on_a_fast_machine",
        &["--kernel", "{mark}", "--rng=transport=mmio-cmdline"],
        &["mmio-cmdline", "--machine legacy"],
    ),
    (
        "net_without_an_end",
        &["--kernel", "{mark}", "--net", "mtu=1500"],
        &["--net mtu=1500: nothing", "tap or a passt"],
    ),
    (
        "net_two_ends",
        &["--kernel", "{mark}", "--net", "tap=a,passt=b"],
        &["--net tap=a,passt=b: ", "name one"],
    ),
    ("net_name_too_long", &["--kernel", "{mark}", "--net", "tap=sixteencharacter"], &["--net", "15 bytes"]),
    ("net_no_tap", &["--kernel", "{mark}", "--net", "tap=fd:2"], &["--net fd:2", "no descriptor of a tap"]),
    ("net_not_a_tap", &["--kernel", "{mark}", "--net", "tap=lo"], &["--net lo"]),
    ("net_passt_absent", &["--kernel", "{mark}", "--net", "passt=/no/such/p"], &["--net /no/such/p"]),
    (
        "net_passt_is_a_file",
        &["--kernel", "{mark}", "--net", "passt={text}"],
        &["--net", "{text}", "refused"],
    ),
    (
        "net_group_address",
        &["--kernel", "{mark}", "--net", "tap=a,mac=01:00:00:00:00:01"],
        &["--net", "one card"],
    ),
    ("config_absent", &["--config", "/no/such.toml"], &["/no/such.toml"]),
    ("config_unknown_key", &["--config", "{unknown_key}"], &["{unknown_key}:2", "did you mean `kernel`?"]),
    ("config_not_toml", &["--config", "{text}"], &["{text}:1"]),
    ("config_bad_value", &["--config", "{bad_value}"], &["{bad_value}:2", "cpus"]),
    (
        "console_nowhere",
        &["--kernel", "{mark}", "--console", "file=/no/such/folder/x"],
        &["/no/such/folder/x"],
    ),
    ("result_nowhere", &["--kernel", "{mark}", "--result", "/no/such/folder/x"], &["/no/such/folder/x"]),
    ("descriptor_closed", &["--kernel", "fd:77"], &["fd:77"]),
];

/// A host that lacks something: a case's name, a shell's line that makes it so before it executes its arguments, more
/// arguments, and what the one line must contain.
type Lacking = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

/// User and mount namespaces of its own: nobody else's /dev changes.
pub(crate) const NAMESPACES: &[&str] = &["--map-root-user", "--mount"];

/// What a host can lack. All of it is done by somebody who has no privileges on the host.
const LACKING: &[Lacking] = &[
    ("kvm_absent", "mount -t tmpfs none /dev && exec \"$@\"", &[], &["/dev/kvm", "modprobe"]),
    ("kvm_is_something_else", "mount --bind /dev/null /dev/kvm && exec \"$@\"", &[], &["/dev/kvm"]),
    (
        "net_tap_to_make",
        "exec \"$@\"",
        &["--net", "tap=jiffytest0"],
        &["--net jiffytest0", "no permission", "ip tuntap"],
    ),
    (
        "net_no_taps",
        "mount -t tmpfs none /dev/net && exec \"$@\"",
        &["--net", "tap=a"],
        &["/dev/net/tun", "load the module tun"],
    ),
    (
        "vsock_folder_not_writable",
        "mount -t tmpfs -o ro none /mnt && exec \"$@\"",
        &["--vsock", "cid=3,path=/mnt/s"],
        &["--vsock", "/mnt/s", "Read-only"],
    ),
];

/// All runs; adds to the lab the files that they need.
pub(crate) fn runs(ctx: &Ctx, lab: &mut Lab, place: &Path) -> Result<Vec<Guest>> {
    let kernel = Kernel::debian(ctx)?;
    lab.file("bzimage", &kernel.image);
    let tiny = fs::read(guests::build(ctx, "mark")?)?;
    for (name, bytes) in files(&tiny, &fs::read(&kernel.image)?)? {
        let path = place.join(name);
        fs::write(&path, bytes)?;
        lab.file(name, &path);
    }
    let large = place.join("large");
    File::create(&large)?.set_len(300 << 20)?;
    lab.file("large", &large);

    let mut runs: Vec<Guest> = CASES
        .iter()
        .map(|&(name, args, says)| refused(&format!("bad_input::{name}"), says).args(args))
        .collect();
    let long = "x".repeat(2048);
    runs.extend([
        refused("bad_input::cmdline_past_the_kernels_limit", &["command line", "2047"]).args(&[
            "--kernel",
            "{bzimage}",
            "--cmdline",
            &long,
        ]),
        refused("bad_input::cmdline_past_any_limit", &["--cmdline"]).args(&[
            "--kernel",
            "{mark}",
            "--cmdline",
            &"x".repeat(100_000),
        ]),
    ]);
    if lab.way == Way::Native && probe::probe(ctx)?.level == Level::Software {
        let says = &["KVM emulates guests in software", "Linux"];
        runs.push(refused("bad_input::linux_on_a_software_kvm", says).args(&["--kernel", "{bzimage}"]));
    }
    Ok(runs)
}

/// Runs on a host that lacks something, in [`NAMESPACES`].
pub(crate) fn lacking() -> Vec<Guest> {
    let run = |&(name, line, args, says): &Lacking| {
        let run = refused(&format!("bad_input::{name}"), says).flag("kernel", "{mark}").args(args);
        run.within(&[&["unshare"], NAMESPACES, &["sh", "-c", line, "sh"]].concat())
    };
    LACKING.iter().map(run).collect()
}

/// A run that is refused with one line, which has all of `says`.
pub(crate) fn refused(name: &str, says: &'static [&'static str]) -> Guest {
    Guest::new(name).exits(125).leaves_nothing().look(move |report| {
        let stderr = String::from_utf8_lossy(&report.stderr);
        let lines: Vec<&str> = stderr.lines().collect();
        let [line] = lines[..] else { anyhow::bail!("{} lines of complaint", lines.len()) };
        ensure!(line.starts_with("jiffy: "), "the line does not say who complains");
        for text in says {
            // Files have other names in the lab than here, but end in the same.
            let text = text.trim_start_matches('{').replace('}', "");
            ensure!(line.contains(&text), "the line does not say {text:?}");
        }
        ensure!(report.stdout.is_empty(), "there is something on standard output");
        Ok(())
    })
}

/// Files that are wrong, each by a change of one that is right: `tiny` is ELF, `bzimage` Debian's kernel.
fn files(tiny: &[u8], bzimage: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let patched = |from: &[u8], at: usize, bytes: &[u8]| {
        let mut changed = from.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    // ELF header (gABI, "ELF Header", 32-bit class): e_machine at 18, e_phoff at 28; a program header has 32 bytes,
    // its p_type at 0 and p_paddr at 12.
    const EM_AARCH64: [u8; 2] = [183, 0];
    const PT_LOAD: [u8; 4] = [1, 0, 0, 0];
    let headers = u32::from_le_bytes(tiny[28..32].try_into()?) as usize;
    let load = tiny[headers..].chunks_exact(32).position(|header| header[..4] == PT_LOAD);
    let load = headers + 32 * load.context("the guest has no segment to load")?;
    let middle = bzimage.len() / 2;
    Ok(vec![
        ("empty", Vec::new()),
        ("text", b"This is not a kernel, and no configuration either.\n".to_vec()),
        ("arm", patched(tiny, 18, &EM_AARCH64)),
        ("elf_header_cut", tiny[..40].to_vec()),
        ("elf_cut", tiny[..headers + 40].to_vec()),
        ("elf_nowhere", patched(tiny, load + 12, &[0, 0, 0, 0xf0])),
        ("no_note", without_note(tiny)?),
        ("bzimage_header_cut", bzimage[..0x210].to_vec()),
        ("bzimage_cut", bzimage[..middle].to_vec()),
        ("bzimage_damaged", patched(bzimage, middle, &[0xff; 4096])),
        ("bomb", bomb(bzimage)?),
        ("unknown_key", b"# A comment.\nkernl = \"x\"\n".to_vec()),
        ("bad_value", b"kernel = \"x\"\ncpus = 0\n".to_vec()),
    ])
}

/// The guest, with its PVH note renamed.
fn without_note(tiny: &[u8]) -> Result<Vec<u8>> {
    const NOTE: [u8; 16] = [4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0];
    let at = tiny.windows(NOTE.len()).position(|window| window == NOTE).context("the guest has no note")?;
    let mut changed = tiny.to_vec();
    changed[at + 12] = b'Y';
    Ok(changed)
}

/// Debian's kernel with a payload of 4 GiB of zeros in 128 KiB: zstd blocks of one repeated byte (RFC 8878, 3.1.1).
fn bomb(bzimage: &[u8]) -> Result<Vec<u8>> {
    const SETUP_SECTS: usize = 0x1f1;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    const BLOCK: u32 = 128 << 10;
    // No content size, no checksum; a window of 128 KiB.
    let mut payload = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    for block in (0..0x8000).rev() {
        let last = u32::from(block == 0);
        let header = BLOCK << 3 | 1 << 1 | last;
        payload.extend(&header.to_le_bytes()[..3]);
        payload.push(0);
    }
    // What it says of its size, as for the real one.
    let word =
        |at: usize| Ok::<_, anyhow::Error>(u32::from_le_bytes(bzimage[at..at + 4].try_into()?) as usize);
    let start = (usize::from(bzimage[SETUP_SECTS]) + 1) * 512 + word(PAYLOAD_OFFSET)?;
    let end = start + word(PAYLOAD_LENGTH)?;
    payload.extend(&bzimage[end - 4..end]);
    let mut changed = bzimage.to_vec();
    changed[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&u32::try_from(payload.len())?.to_le_bytes());
    changed[start..start + payload.len()].copy_from_slice(&payload);
    Ok(changed)
}
