//! Debian's kernel under `jiffy`, in a nested lab: all boot protocols, sizes, and ends.

mod virtio;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use agent::Act;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::{Guest, suite};
use xtask::built;
use xtask::ctx::Ctx;
use xtask::initramfs;
use xtask::kernel::Kernel;
use xtask::lab::Lab;

/// What a workload says when it has come to its end.
const DONE: &str = "guest: done";
/// Modules that guests load when a case asks for them.
const MODULES: [&str; 2] = ["pvpanic", "pvpanic_mmio"];
/// Where `jiffy` keeps unpacked kernels in the lab.
const CACHE: &str = "/tmp/cache";
/// The lab's own RAM: the largest guest touches some 200 MiB of its 6 GiB.
const LAB_MIB: u32 = 3072;

fn main() -> ExitCode {
    suite::run(trials)
}

fn trials(ctx: &Ctx, place: &Path) -> Result<Vec<Trial>> {
    let lab = lab(ctx, place)?;
    let mut guests = protocols();
    guests.extend(sizes());
    guests.extend(machines());
    guests.extend(ends());
    guests.extend(consoles());
    guests.extend(records());
    guests.extend(virtio::guests());
    suite::guests(ctx, lab, guests)
}

/// The lab has the kernel in both forms, and an initramfs with busybox.
fn lab(ctx: &Ctx, place: &Path) -> Result<Lab> {
    let kernel = Kernel::debian(ctx)?;
    let mut cpio = initramfs::with_init(built::INIT.read(ctx)?, &[])?;
    initramfs::add_busybox(&mut cpio, ctx)?;
    initramfs::add_modules(&mut cpio, &kernel, &[&MODULES[..], &virtio::MODULES].concat())?;
    cpio.file("etc/not-a-program", "text\n");
    let initrd = place.join("initrd");
    fs::write(&initrd, cpio.build()?)?;
    let mut lab = suite::nested_lab(ctx)?;
    lab.memory_mib = LAB_MIB;
    lab.file("bzimage", &kernel.image).file("vmlinux", &kernel.vmlinux(ctx)?).file("initrd", &initrd);
    Ok(lab)
}

/// A Linux, started from this file.
fn boots(name: &str, kernel: &str) -> Guest {
    Guest::new(name).env("XDG_CACHE_HOME", CACHE).flag("kernel", kernel).flag("initrd", "{initrd}")
}

/// Debian's `bzImage`, unpacked by `jiffy` unless it is in its cache by now.
fn linux(name: &str) -> Guest {
    boots(name, "{bzimage}")
}

fn protocols() -> Vec<Guest> {
    let says_version = |name: &str, kernel: &str| {
        boots(&format!("protocol::{name}"), kernel)
            .shell("cat /proc/version && echo guest: done")
            .says(DONE)
            .look(|report| contains(&report.stdout, "Linux version 6."))
    };
    let address = |name: &str, kaslr: &str| {
        linux(&format!("protocol::{name}"))
            .flag("kaslr", kaslr)
            .shell("grep -w _text /proc/kallsyms; echo guest: done")
            .says(DONE)
    };
    vec![
        says_version("vmlinux_linux64", "{vmlinux}").flag("protocol", "linux64"),
        says_version("vmlinux_pvh", "{vmlinux}").flag("protocol", "pvh"),
        says_version("bzimage_unpacked", "{bzimage}"),
        says_version("bzimage_by_its_own_entry", "{bzimage}").flag("unpack", "off"),
        address("kaslr_off", "off").says("ffffffff81000000 T _text"),
        address("kaslr_moves_the_kernel", "7").look(|report| {
            let shown = String::from_utf8_lossy(&report.stdout);
            let line =
                shown.lines().find(|line| line.trim_end().ends_with(" T _text")).context("no _text")?;
            let at = u64::from_str_radix(&line[..16], 16)?;
            ensure!(at % 0x20_0000 == 0, "{at:#x} is no multiple of 2 MiB");
            ensure!(at > 0xffff_ffff_8100_0000, "{at:#x} is where it would be without KASLR");
            Ok(())
        }),
    ]
}

fn sizes() -> Vec<Guest> {
    let cpus = |cpus: u32| {
        linux(&format!("size::{cpus}_cpus"))
            .flag("cpus", &cpus.to_string())
            .shell(
                "cd /sys/devices/system/cpu; echo online $(nproc); \
                 cat cpu[0-9]*/topology/thread_siblings_list | sort -u | wc -l; \
                 cat cpu[0-9]*/topology/physical_package_id | sort -u | wc -l; \
                 for cpu in cpu[0-9]*; do taskset -p $((1 << ${cpu#cpu})) $$ > /dev/null && echo ran on $cpu; done; \
                 echo guest: done",
            )
            .says(&format!("online {cpus}"))
            .look(move |report| {
                let shown = String::from_utf8_lossy(&report.stdout);
                let counts: Vec<&str> = shown.lines().map(str::trim_end).filter(|line| line.parse::<u32>().is_ok()).collect();
                ensure!(counts == [cpus.to_string().as_str(), "1"], "cores and sockets are {counts:?}");
                Ok(())
            })
            .says(&format!("ran on cpu{}", cpus - 1))
            .says(DONE)
    };
    let memory = |size: &str, mib: u64| {
        linux(&format!("size::{size}"))
            .flag("memory", size)
            .shell("grep MemTotal /proc/meminfo; grep -c System.RAM /proc/iomem; echo guest: done")
            .says(DONE)
            .look(move |report| {
                let shown = String::from_utf8_lossy(&report.stdout);
                let total =
                    shown.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
                let kib: u64 = total.trim().trim_end_matches(" kB").parse()?;
                let found = kib >> 10;
                // The kernel itself takes some 90 MiB, and there is a page structure for each page.
                ensure!(found < mib && found + 100 + mib / 48 > mib, "{found} MiB of {mib}");
                Ok(())
            })
    };
    vec![
        cpus(1),
        cpus(2),
        cpus(4),
        memory("128M", 128),
        memory("1G", 1024),
        memory("3G", 3072),
        memory("4G", 4096),
        memory("6G", 6144),
    ]
}

fn machines() -> Vec<Guest> {
    vec![
        linux("machine::clocks")
            .shell(
                "dmesg | grep -i rtc; ls /sys/class/rtc; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; \
                 dmesg | grep -q TSC.deadline.timer && echo tsc deadline; \
                 test $(cat /sys/class/rtc/rtc0/since_epoch) -gt 1700000000 && echo rtc answers; \
                 echo guest: done",
            )
            .says("kvm-clock")
            .says("rtc answers")
            .says(DONE),
        // QEMU emulates no invariant TSC, and so the lab's KVM has none to offer.
        linux("machine::invtsc_that_kvm_lacks")
            .args(&["--invtsc"])
            .exits(125)
            .complains("no invariant TSC"),
        linux("machine::no_invtsc_unasked")
            .shell("grep -qw nonstop_tsc /proc/cpuinfo || echo guest: done")
            .says(DONE),
        linux("machine::legacy")
            .flag("machine", "legacy")
            .shell("grep -w timer /proc/interrupts && ls /sys/bus/acpi/devices && echo guest: done")
            .says(DONE),
        linux("machine::acpi_devices")
            .shell(
                "dmesg | grep -iE 'acpi.*(error|bug)'; cd /sys/bus/acpi/devices && ls -d PNP0501:00 PNP0B00:00 \
                 QEMU0001:00 && cat /proc/tty/driver/serial && echo guest: done",
            )
            .says(DONE)
            .look(|report| lacks(&report.stdout, "ACPI Error"))
            .look(|report| contains(&report.stdout, "uart:16550A")),
        linux("machine::marks_and_time")
            .shell("/init greet && echo guest: done")
            .says(DONE)
            .look(|report| contains(&report.stdout, "after jiffy was started")),
    ]
}

fn ends() -> Vec<Guest> {
    let status =
        |name: &str, line: &str, status: u8| linux(&format!("end::{name}")).shell(line).exits(status);
    let signal = |name: &str, signal: i32, status: u8| {
        linux(&format!("end::jiffy_gets_{name}"))
            .shell("echo guest: ready; while :; do sleep 1; done")
            .when("guest: ready", Act::Signal(signal))
            .says("guest: ready")
            .exits(status)
            .results([
                ("/outcome", json!("killed")),
                ("/signal", json!(signal)),
                ("/exit_code", json!(status)),
            ])
    };
    let loads =
        "modprobe pvpanic-mmio || insmod /lib/modules/*/pvpanic.ko && insmod /lib/modules/*/pvpanic*mmio.ko";
    vec![
        status("status_0", "echo guest: done", 0).says(DONE).results([
            ("/outcome", json!("power-off")),
            ("/status", json!(0)),
            ("/exit_code", json!(0)),
        ]),
        status("status_7", "echo guest: done; exit 7", 7).says(DONE).results([("/status", json!(7))]),
        status("status_255", "echo guest: done; exit 255", 255).says(DONE),
        status("killed_by_sigkill", "echo guest: done; kill -9 $$", 137).says(DONE),
        status("killed_by_sigsegv", "echo guest: done; kill -11 $$", 139).says(DONE),
        linux("end::not_executable").workload(&["/etc/not-a-program"]).exits(126),
        linux("end::not_found").workload(&["/no/such/program"]).exits(127),
        status("power_off_without_a_word", "echo guest: done; poweroff -f", 0)
            .says(DONE)
            .results([("/outcome", json!("power-off")), ("/status", Value::Null)]),
        status("reset_by_keyboard_controller", "echo guest: done; reboot -f", 0)
            .says(DONE)
            .results([("/outcome", json!("reset"))]),
        status("reset_by_acpi", "echo guest: done; reboot -f", 0)
            .kernel_words("reboot=a")
            .says(DONE)
            .results([("/outcome", json!("reset"))]),
        status("triple_fault", "echo guest: done; reboot -f", 122)
            .kernel_words("reboot=t")
            .says(DONE)
            .complains("triple fault")
            .results([("/outcome", json!("triple-fault"))]),
        status("panic", &format!("{loads}; echo guest: done; echo c > /proc/sysrq-trigger"), 121)
            .says(DONE)
            .results([("/outcome", json!("panic"))]),
        status("panic_untold", "echo guest: done; echo c > /proc/sysrq-trigger", 0)
            .says(DONE)
            .results([("/outcome", json!("reset"))]),
        signal("sigterm", 15, 143),
        signal("sigint", 2, 130),
        signal("sighup", 1, 129),
    ]
}

fn consoles() -> Vec<Guest> {
    vec![
        linux("console::input")
            .shell("echo guest: ready; read line; echo got $line; echo guest: done")
            .when("guest: ready", Act::Write(b"one two\n".to_vec()))
            .says("got one two")
            .says(DONE),
        linux("console::much_input")
            .shell("stty -echo; echo guest: ready; head -c 20000 | md5sum; echo guest: done")
            .when("guest: ready", Act::Write("0123456789abcdefghi\n".repeat(1000).into_bytes()))
            .says("c763c7fa2fe83c14885b03efb6bb450b  -")
            .says(DONE),
        // The flood is taken inside of the lab. If all of it goes through the lab's serial port, a guest stalls in one
        // run of ten: KVM there then emulates one instruction for ever, which is QEMU's doing (seen with 7.2).
        linux("console::flood")
            .within(&["sh", "-c", "\"$@\" | grep -c 0123456789abcdef", "sh"])
            .shell("yes 0123456789abcdef | head -n 2000")
            .says("2000"),
        linux("console::ctrl_c_reaches_the_workload")
            .shell("trap 'echo; echo interrupted; exit 5' INT; echo guest: ready; while :; do sleep 1; done")
            .when("guest: ready", Act::Write(b"\x03".to_vec()))
            .says("interrupted")
            .exits(5),
        // The pipe is full from its first 64 KiB on; the guest goes on, and its status arrives.
        linux("console::nobody_reads")
            .within(&[
                "sh",
                "-c",
                "mkfifo $0; exec 3<>$0; \"$@\" >&3 3>&-; echo it ended with $?; rm $0",
                "{out}/pipe",
            ])
            .shell("yes 0123456789abcdef | head -n 8000; exit 5")
            .says("it ended with 5")
            .complains("bytes of console output were lost"),
        linux("console::to_a_file").flag("console", "file={out}/console").shell("echo guest: done").look(
            |report| {
                ensure!(report.stdout.is_empty(), "standard output is not empty");
                contains(report.files.get("console").context("no file")?, DONE)
            },
        ),
        linux("console::off").flag("console", "off").shell("echo guest: done; exit 9").exits(9).look(
            |report| {
                ensure!(report.stdout.is_empty(), "standard output is not empty");
                Ok(())
            },
        ),
    ]
}

fn records() -> Vec<Guest> {
    vec![
        linux("timeline::json")
            .flag("timeline", "json")
            .flag("timeline-origin", "{origin}")
            .shell("echo guest: done")
            .says(DONE)
            .look(|report| {
                let text = String::from_utf8_lossy(&report.stderr);
                let line = text.lines().find(|line| line.starts_with('{')).context("no JSON")?;
                let timeline: Value = serde_json::from_str(line)?;
                let rows = timeline["rows"].as_array().context("no rows")?;
                let events: Vec<&str> = rows.iter().filter_map(|row| row["event"].as_str()).collect();
                let marks = ["mark"; 3];
                let steps = [
                    "exec",
                    "config-read",
                    "kvm-opened",
                    "memory-mapped",
                    "kernel-loaded",
                    "vcpus-ready",
                    "first-run",
                ];
                let end = ["guest-stopped", "vm-destroyed", "unaccounted"];
                let expected: Vec<&str> = steps.into_iter().chain(marks).chain(end).collect();
                ensure!(events == expected, "events are {events:?}");
                let codes: Vec<_> = rows.iter().filter_map(|row| row["code"].as_u64()).collect();
                ensure!(codes == [0x20, 0x21, 0x22], "marks are {codes:?}");
                let sum: u64 = rows.iter().filter_map(|row| row["took_ns"].as_u64()).sum();
                ensure!(rows.last().is_some_and(|row| row["at_ns"] == json!(sum)), "the rows do not add up");
                Ok(())
            }),
        linux("timeline::text")
            .flag("timeline", "text")
            .shell("echo guest: done")
            .says(DONE)
            .complains("init's first instruction")
            .complains("not accounted for"),
    ]
}

fn contains(bytes: &[u8], text: &str) -> Result<()> {
    ensure!(String::from_utf8_lossy(bytes).contains(text), "no {text:?}");
    Ok(())
}

fn lacks(bytes: &[u8], text: &str) -> Result<()> {
    ensure!(!String::from_utf8_lossy(bytes).contains(text), "there is {text:?}");
    Ok(())
}
