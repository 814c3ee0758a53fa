//! Firmwares under `jiffy`, and what they boot there, in a nested lab.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use abi::firmware::{Code, Protocol};
use abi::init_config::Directive;
use agent::Act;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use tests::{Guest, payloads, suite};
use xtask::ctx::Ctx;
use xtask::guests;
use xtask::kernel::Kernel;
use xtask::lab::{Lab, StepReport};
use xtask::tuned::{Recipe, Variant};
use xtask::{built, foreign, initramfs};

/// In the lab: a tap whose other end is the guest, and somebody who asks for a page until there is one or no guest.
const ASK: &str = "tunctl -t tap0 >/dev/null; ip address add 10.0.0.1/24 dev tap0; ip link set tap0 up; \
    \"$@\" & jiffy=$!; until [ -s {out}/answer ] || ! kill -0 $jiffy; do \
    printf 'GET / HTTP/1.1\\r\\nHost: guest\\r\\n\\r\\n' | nc -w 40 10.0.0.2 80 >{out}/answer; done; wait $jiffy";

fn main() -> ExitCode {
    suite::run(trials)
}

fn trials(ctx: &Ctx, place: &Path) -> Result<Vec<Trial>> {
    let mut lab = suite::nested_lab(ctx)?;
    lab.file("rom", &built::FIRMWARE.path(ctx)?);
    let mut guests = checks(ctx, &mut lab, place)?;
    guests.extend(linux(ctx, &mut lab, place)?);
    guests.extend(others(ctx, &mut lab)?);
    guests.extend(unikernels(ctx, &mut lab)?);
    guests.extend(bad_input(&mut lab, place)?);
    suite::guests(ctx, lab, guests)
}

/// What cannot be booted: one line that says why, and a status of its own.
fn bad_input(lab: &mut Lab, place: &Path) -> Result<[Guest; 5]> {
    let text = place.join("text");
    fs::write(&text, "#!/bin/sh\nexit 0\n")?;
    lab.file("text", &text);
    let gives_up = |name: &str, says: &'static str, code: Code| {
        Guest::new(&format!("bad::{name}"))
            .flag("firmware", "{rom}")
            .flag("memory", "8M")
            .look(move |report| contains(report, &format!("jiffy-firmware: {says}")))
            .exits(code.0 * 2 + 1)
    };
    let file = |name: &str, file: &str| format!("name=opt/jiffy/{name},file={{{file}}}");
    let sound = "pvh-Elf64";
    Ok([
        gives_up("nothing_to_boot", "nothing to boot", Code::NOTHING_TO_BOOT),
        gives_up("no_kernel", "kernel: not a bzImage", Code::KERNEL).flag("fw-cfg", &file("kernel", "text")),
        gives_up("no_archive", "", Code::MODULES)
            .flag("fw-cfg", &file("kernel", sound))
            .flag("fw-cfg", &file("modules", "text")),
        gives_up("unknown_protocol", "", Code::PROTOCOL)
            .flag("fw-cfg", &file("kernel", sound))
            .flag("fw-cfg", &file("protocol", "text")),
        gives_up("modules_that_do_not_fit", "kernel: no room for modules", Code::NO_ROOM)
            .flag("kernel", &format!("{{{sound}}}"))
            .flag("module", "file={bzimage}"),
    ])
}

fn checks(ctx: &Ctx, lab: &mut Lab, place: &Path) -> Result<Vec<Guest>> {
    let modules = payloads::modules(place)?;
    for (name, (path, _)) in ["first", "second"].iter().zip(&modules) {
        lab.file(name, path);
    }
    let [(_, first), (_, second)] = &modules;
    let mut runs = Vec::new();
    for check in payloads::CHECKS {
        let file = format!("{}-{:?}", check.source, check.form);
        lab.file(&file, &guests::payload(ctx, check.source, check.form)?);
        for machine in ["fast", "legacy"] {
            let run = Guest::new(&format!("payload::{}_{machine}", check.name()))
                .flag("firmware", "{rom}")
                .flag("kernel", &format!("{{{file}}}"))
                .flag("protocol", check.protocol.map_or("auto", Protocol::word))
                .flag("machine", machine)
                .flag("memory", "64M")
                .flag("module", &format!("file={{first}},cmdline={first}"))
                .flag("module", &format!("file={{second}},cmdline={second}"))
                .flag("cmdline", &check.cmdline(2, true, true))
                .look(move |report| contains(report, check.pass));
            runs.push(run);
        }
    }
    Ok(runs)
}

fn contains(report: &StepReport, text: &str) -> Result<()> {
    ensure!(String::from_utf8_lossy(&report.stdout).contains(text), "no {text:?}");
    Ok(())
}

/// Debian's kernel, by the firmware's ways into it.
fn linux(ctx: &Ctx, lab: &mut Lab, place: &Path) -> Result<Vec<Guest>> {
    let kernel = Kernel::debian(ctx)?;
    let initrd = place.join("initrd");
    let config = [Directive::Exec("/init"), Directive::Arg("greet")];
    fs::write(&initrd, initramfs::with_init(built::INIT.read(ctx)?, &config)?.build()?)?;
    lab.file("bzimage", &kernel.image).file("vmlinux", &kernel.vmlinux(ctx)?).file("initrd", &initrd);
    let boots = |name: &str, kernel: &str, protocol: &str| {
        Guest::new(&format!("linux::{name}"))
            .flag("firmware", "{rom}")
            .flag("kernel", kernel)
            .flag("initrd", "{initrd}")
            .flag("protocol", protocol)
            .flag("cmdline", "console=ttyS0 quiet panic=-1 reboot=k cryptomgr.notests")
            .flag("timeline", "text")
            .complains("firmware hands over")
            .complains("init's first instruction")
    };
    let mut all = vec![
        boots("vmlinux_pvh", "{vmlinux}", "pvh"),
        boots("bzimage_linux64", "{bzimage}", "linux64"),
        boots("bzimage_linux32", "{bzimage}", "linux32"),
        boots("bzimage_linux16", "{bzimage}", "linux16"),
    ];
    if let Some(fast) = Recipe::read(ctx, Variant::Fast)?.cached(ctx) {
        lab.file("fast", &fast.vmlinux());
        all.push(boots("fast_pvh", "{fast}", "pvh"));
    }
    Ok(all)
}

/// The unikernels in Rust. The web server's client is in the lab, behind the tap.
fn unikernels(ctx: &Ctx, lab: &mut Lab) -> Result<Vec<Guest>> {
    lab.modules.push("tun".to_owned());
    lab.file("hello", &built::unikernel(ctx, "hello")?).file("http", &built::unikernel(ctx, "http")?);
    let run = |name: &str, kernel: &str, cmdline: &str| {
        Guest::new(&format!("unikernel::{name}")).args(&[
            "--firmware",
            "{rom}",
            "--kernel",
            kernel,
            "--memory",
            "64M",
            "--cmdline",
            cmdline,
        ])
    };
    let http = ["mmio", "pci"].map(|transport| {
        run(&format!("http_{transport}"), "{http}", "ip=10.0.0.2/24 requests=1")
            .within(&["sh", "-c", ASK, "sh"])
            .flag("transport", transport)
            .flag("net", "tap=tap0")
            .says("unikernel: pass")
            .look(|report| {
                let answer = report.files.get("answer").context("there is no answer")?;
                let answer = String::from_utf8_lossy(answer);
                ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
                ensure!(answer.ends_with("\r\n\r\nhello from a unikernel\n"), "{answer:?}");
                Ok(())
            })
    });
    let hello = run("hello", "{hello}", "everyone").says("unikernel: hello, everyone and 63.0 MiB");
    Ok(std::iter::once(hello).chain(http).collect())
}

/// A memory tester and a hypervisor; both go on until they are ended.
fn others(ctx: &Ctx, lab: &mut Lab) -> Result<Vec<Guest>> {
    lab.file("memtest", &foreign::memtest(ctx)?).file("xen", &foreign::xen(ctx)?);
    let run = |name: &str, kernel| {
        Guest::new(name)
            .args(&["--firmware", "{rom}", "--kernel", kernel, "--machine", "legacy"])
            .exits(128 + 15)
    };
    Ok(vec![
        run("memtest86+", "{memtest}")
            .flag("memory", "64M")
            .flag("cmdline", foreign::MEMTEST_CMDLINE)
            .when("MB of ", Act::Signal(15))
            .look(|report| contains(report, "Memtest86+ v6")),
        run("xen", "{xen}")
            .flag("protocol", "multiboot1")
            .flag("memory", "512M")
            .flag("cmdline", foreign::XEN_CMDLINE)
            .flag("module", &format!("file={{bzimage}},cmdline={}", foreign::DOM0_CMDLINE))
            .when("Linux version 6.", Act::Signal(15))
            .look(|report| contains(report, "(XEN) Xen version 4.17")),
    ])
}
