//! With a filled cache, nothing needs a network: `cargo xtask` in an empty network namespace.

use std::process::ExitCode;

use agent::Status;
use anyhow::{Result, ensure};
use tests::suite;
use xtask::ctx::Ctx;
use xtask::initramfs;
use xtask::kernel::Kernel;
use xtask::lab::{self, Lab, Way, qemu};

/// Long enough for a lab on a slow and busy host.
const DEADLINE_MS: u64 = 600_000;
/// A user and a network namespace of its own.
const ISOLATE: [&str; 3] = ["unshare", "--map-root-user", "--net"];
/// Executes its arguments where there is no network but the loopback, which is down.
const NO_NETWORK: &str =
    r#"[ "$(sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' ')" = lo ] || exit 99; exec "$@""#;

fn main() -> ExitCode {
    suite::run(|_, _| Ok(vec![suite::test("offline::run", run), suite::test("offline::test", test)]))
}

/// `run` boots a guest and returns its status.
fn run() -> Result<()> {
    let exec = "echo guest: done; exit 7";
    let Some(said) = without_network("offline::run", &["xtask", "run", "--exec", exec], 7)? else {
        return Ok(());
    };
    ensure!(said.lines().any(|line| line.trim_end() == "guest: done"), "the guest said nothing:\n{said}");
    Ok(())
}

/// `test` runs a test that boots a guest.
fn test() -> Result<()> {
    let words = ["xtask", "test", "end::killed_by_sigsegv"];
    let Some(said) = without_network("offline::test", &words, 0)? else { return Ok(()) };
    ensure!(said.lines().any(|line| line == "1 passed, 0 failed, 0 skipped"), "no test was run:\n{said}");
    Ok(())
}

/// What cargo says with these words; nothing if this host does not let us take the network away.
fn without_network(name: &str, words: &[&str], status: u8) -> Result<Option<String>> {
    let ctx = suite::context()?;
    fill_cache(&ctx)?;
    if !suite::gives_namespaces(&ISOLATE[1..]) {
        suite::note_no_namespaces(name, &ISOLATE[1..]);
        return Ok(None);
    }
    let cargo = ctx.cargo();
    let shell = ["sh", "-c", NO_NETWORK, "sh", "env", "-C"].map(str::to_owned);
    let argv = ISOLATE
        .map(str::to_owned)
        .into_iter()
        .chain(shell)
        .chain([ctx.root.to_string_lossy().into_owned(), cargo.get_program().to_string_lossy().into_owned()]);
    let mut step = lab::step(name, argv.chain(words.iter().map(|&word| word.to_owned())));
    step.env = vec![("CARGO_NET_OFFLINE".to_owned(), "true".to_owned())];
    step.deadline_ms = DEADLINE_MS;
    let report = Lab::new(Way::Native).run(&ctx, &[step])?;
    let [step] = &report.steps[..] else { anyhow::bail!("no report") };
    let said = String::from_utf8_lossy(&step.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&step.stderr);
    ensure!(step.status == Status::Exited(status), "it ended with {:?}:\n{said}\n{stderr}", step.status);
    Ok(Some(said))
}

fn fill_cache(ctx: &Ctx) -> Result<()> {
    Kernel::debian(ctx)?.vmlinux(ctx)?;
    initramfs::busybox(ctx)?;
    qemu::several(ctx)?;
    Ok(())
}
