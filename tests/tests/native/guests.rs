//! The guests of `tests/guests`: each says what it found, and ends in its own way.

use std::path::Path;

use agent::Act;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::Guest;
use xtask::ctx::Ctx;
use xtask::lab::{Lab, Way};
use xtask::probe::{self, Level};
use xtask::{apt, guests};

/// Guests that test something and end with status 0 only if it is right: their names, and what they say then.
const CHECKS: [(&str, &str); 5] = [
    ("hlt", "hlt: woken three times"),
    ("interrupt", "interrupt: delivered"),
    ("mmio", "mmio: all ones"),
    ("ports", "ports: all as they should be"),
    ("exit", "exit: with the status asked for"),
];
const OTHERS: [&str; 9] = ["acpi-reset", "echo", "flood", "mark", "panic", "reset", "spin", "sse", "triple"];

/// All runs; adds to the lab the guests that they need.
pub(crate) fn runs(ctx: &Ctx, lab: &mut Lab) -> Result<Vec<Guest>> {
    for name in CHECKS.iter().map(|(name, _)| *name).chain(OTHERS) {
        lab.file(name, &guests::build(ctx, name)?);
    }
    let software = lab.way == Way::Native && probe::probe(ctx)?.level == Level::Software;
    let mut runs = checks();
    runs.extend(ends());
    runs.extend(signals());
    runs.extend(consoles());
    runs.push(unimplemented(software));
    runs.extend(firmwares(ctx, lab)?);
    Ok(runs)
}

/// The guest of this name, with the least memory that it can have.
pub(crate) fn tiny(test: &str, guest: &str) -> Guest {
    Guest::new(test).flag("kernel", &format!("{{{guest}}}")).flag("memory", "4M")
}

fn checks() -> Vec<Guest> {
    let mut runs = Vec::new();
    for (guest, message) in CHECKS {
        for machine in ["fast", "legacy"] {
            let run = tiny(&format!("guest::{guest}_{machine}"), guest).flag("machine", machine);
            runs.push(run.flag("cmdline", "status=0").says(message));
        }
    }
    let sizes = [("2M", 1), ("128M", 2), ("3G", 4), ("5G", 8), ("64G", 1)];
    runs.extend(sizes.map(|(memory, cpus)| {
        Guest::new(&format!("guest::{memory}_{cpus}_cpus"))
            .flag("kernel", "{hlt}")
            .flag("memory", memory)
            .flag("cpus", &cpus.to_string())
            .says("hlt: woken three times")
    }));
    runs
}

/// Firmwares made for QEMU that software-mode KVM can run as well, with kernels that they start by PVH.
fn firmwares(ctx: &Ctx, lab: &mut Lab) -> Result<Vec<Guest>> {
    for (name, path, package) in [
        ("qboot", "/usr/share/qemu/qboot.rom", "qemu-system-data"),
        ("seabios", "/usr/share/seabios/bios-microvm.bin", "seabios"),
        // SeaBIOS starts kernels by an option ROM.
        ("pvh-rom", "/usr/share/qemu/pvh.bin", "qemu-system-data"),
    ] {
        apt::file(ctx, path, package)?;
        lab.file(name, Path::new(path));
    }
    let mut runs = Vec::new();
    for machine in ["fast", "legacy"] {
        let run = |name: &str, guest| {
            let name = format!("firmware::qboot_{name}_{machine}");
            Guest::new(&name).args(&[
                "--firmware",
                "{qboot}",
                "--kernel",
                guest,
                "--machine",
                machine,
                "--memory",
                "32M",
            ])
        };
        runs.push(run("hlt", "{hlt}").says("hlt: woken three times"));
        runs.push(run("exit", "{exit}").flag("cmdline", "quiet status=77").exits(77));
    }
    runs.push(
        Guest::new("firmware::seabios")
            .args(&["--firmware", "{seabios}", "--kernel", "{hlt}", "--memory", "32M"])
            .flag("fw-cfg", "name=genroms/pvh.bin,file={pvh-rom}")
            .says("hlt: woken three times"),
    );
    Ok(runs)
}

fn ends() -> Vec<Guest> {
    let status = |status: u8| {
        tiny(&format!("end::status_{status}"), "exit")
            .flag("cmdline", &format!("quiet status={status}"))
            .says("exit: with the status asked for")
            .exits(status)
            .results([
                ("/outcome", json!("power-off")),
                ("/status", json!(status)),
                ("/exit_code", json!(status)),
            ])
    };
    let mut runs: Vec<Guest> = [0, 1, 77, 125, 255].map(status).into();
    runs.extend([
        tiny("end::mark", "mark")
            .results([("/outcome", json!("power-off")), ("/status", Value::Null)])
            .flag("timeline", "json")
            .complains("\"event\":\"mark\""),
        tiny("end::reset", "reset")
            .says("reset: by the keyboard controller")
            .results([("/outcome", json!("reset"))]),
        tiny("end::acpi_reset", "acpi-reset")
            .says("acpi-reset: by the reset register")
            .results([("/outcome", json!("reset"))]),
        tiny("end::acpi_reset_legacy", "acpi-reset")
            .flag("machine", "legacy")
            .says("acpi-reset: by the reset register")
            .results([("/outcome", json!("reset"))]),
        tiny("end::panic", "panic")
            .says("panic: now")
            .exits(121)
            .complains("panicked")
            .results([("/outcome", json!("panic")), ("/exit_code", json!(121))]),
        tiny("end::triple_fault", "triple")
            .says("triple: now")
            .exits(122)
            .complains("triple fault")
            .complains("ud2")
            .results([("/outcome", json!("triple-fault")), ("/cpu", json!(0))])
            .look(|report| {
                ensure!(!report.stdout.windows(10).any(|part| part == b"still here"), "it went on");
                Ok(())
            }),
    ]);
    runs
}

/// An instruction that a software-mode KVM cannot emulate, and any other executes.
fn unimplemented(software: bool) -> Guest {
    let run = tiny("end::unimplemented_instruction", "sse").says("sse: now");
    if software {
        run.exits(123)
            .complains("emulate")
            .complains("xmm0")
            .results([("/outcome", json!("kvm-stopped")), ("/exit_code", json!(123))])
    } else {
        run.says("sse: executed")
    }
}

fn signals() -> Vec<Guest> {
    let run = |name: &str, signal: i32, status: u8| {
        tiny(&format!("signal::{name}"), "spin")
            .flag("cpus", "2")
            .when("spin: for ever", Act::Signal(signal))
            .exits(status)
            .results([
                ("/outcome", json!("killed")),
                ("/signal", json!(signal)),
                ("/exit_code", json!(status)),
            ])
    };
    vec![run("sighup", 1, 129), run("sigint", 2, 130), run("sigterm", 15, 143)]
}

fn consoles() -> Vec<Guest> {
    vec![
        tiny("console::echo", "echo")
            .when("echo: ready", Act::Write(b"one two three\n\x04".to_vec()))
            .says("one two three")
            .says("echo: done"),
        // Not a terminal: no key is ours, and all reach the guest.
        tiny("console::no_escapes_from_a_pipe", "echo")
            .when("echo: ready", Act::Write(b"a\x01xb\n\x04".to_vec()))
            .says("a\u{1}xb")
            .says("echo: done"),
        tiny("console::flood", "flood")
            .when("and then once more", Act::Signal(15))
            .exits(143)
            .results([("/outcome", json!("killed"))]),
        Guest::new("console::nobody_reads")
            .within(&["sh", "-c", NOBODY_READS, "{out}"])
            .flag("kernel", "{flood}")
            .flag("memory", "4M")
            .says("flooded, then ended with 143"),
        tiny("console::closed", "exit")
            .within(&["sh", "-c", "\"$@\" >&-; echo it ended with $?", "sh"])
            .flag("cmdline", "status=7")
            .says("it ended with 7"),
        tiny("console::nobody_hears_complaints", "triple")
            .within(&["sh", "-c", "exec \"$@\" 2> /dev/full", "sh"])
            .says("triple: now")
            .exits(122),
        tiny("console::off", "exit").flag("console", "off").flag("cmdline", "status=3").exits(3).look(
            |report| {
                ensure!(report.stdout.is_empty(), "standard output is not empty");
                Ok(())
            },
        ),
        tiny("console::file", "exit").flag("console", "file={out}/console").flag("cmdline", "status=0").look(
            |report| {
                let console = report.files.get("console").map(Vec::as_slice);
                ensure!(console == Some(b"exit: with the status asked for\n"), "the file holds {console:?}");
                Ok(())
            },
        ),
    ]
}

/// Runs the command with a pipe for its console that is never read from, ends it when it has had time to fill the
/// pipe, and says how it ended.
const NOBODY_READS: &str = r#"
mkfifo "$0/pipe"
exec 3<>"$0/pipe"
"$@" >&3 3>&- &
sleep 1
kill -TERM $!
wait $!
echo "flooded, then ended with $?"
rm "$0/pipe"
"#;
