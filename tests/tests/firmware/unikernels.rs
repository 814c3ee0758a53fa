//! The unikernels in Rust: a hello, and a web server on virtio-mmio and on PCI.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use tests::suite;
use xtask::built;
use xtask::ctx::Ctx;
use xtask::lab::qemu::Machine;
use xtask::payload::Payload;

use super::{DEADLINE, MACHINES, boot, machine};

/// Network devices on each of QEMU's machines.
const NETWORKS: [(&str, &str); 3] =
    [("microvm", "virtio-net-device"), ("q35", "virtio-net-pci"), ("pc", "virtio-net-pci")];

pub(super) fn trials() -> Vec<Trial> {
    let hello = MACHINES.map(|name| suite::test(&format!("unikernel::hello on {name}"), move || hello(name)));
    let http = NETWORKS.map(|(name, device)| {
        suite::test(&format!("unikernel::http on {name}, {device}"), move || http(name, device))
    });
    hello.into_iter().chain(http).collect()
}

/// A machine that boots a unikernel.
fn boots(ctx: &Ctx, name: &str, unikernel: &str, cmdline: &str) -> Result<Machine> {
    let payload = Payload {
        kernel: built::unikernel(ctx, unikernel)?,
        cmdline: cmdline.to_owned(),
        ..Payload::default()
    };
    let mut machine = machine(ctx, name)?;
    // No modules, so nothing is made in a folder.
    machine.args.extend(payload.qemu_args("".as_ref())?);
    Ok(machine)
}

fn hello(name: &str) -> Result<()> {
    let ctx = suite::context()?;
    let (ended, shown) = boot(&ctx, &boots(&ctx, name, "hello", "everyone")?)?;
    // Of 256, one belongs to the firmware; tables take some of the rest.
    ensure!(
        ["255.0", "254."].iter().any(|mib| shown.contains(&format!("unikernel: hello, everyone and {mib}"))),
        "{shown:?}"
    );
    ensure!(ended.status == Some(0), "status {:?}: {shown:?}", ended.status);
    Ok(())
}

fn http(name: &str, device: &str) -> Result<()> {
    let ctx = suite::context()?;
    // Free a moment ago, which is as much as can be known.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut machine = boots(&ctx, name, "http", "ip=10.0.2.15/24 requests=1")?;
    let forward = format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:80");
    machine.args.extend([
        "-netdev".to_owned(),
        forward,
        "-device".to_owned(),
        format!("{device},netdev=net"),
    ]);
    let client = thread::spawn(move || ask(port));
    let (ended, shown) = boot(&ctx, &machine)?;
    let answer = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    ensure!(answer.ends_with("\r\n\r\nhello from a unikernel\n"), "{answer:?}");
    ensure!(shown.contains("unikernel: pass") && ended.status == Some(0), "{:?}: {shown:?}", ended.status);
    Ok(())
}

/// Asks until there is an answer: QEMU takes connections before the guest does.
fn ask(port: u16) -> Result<String> {
    let start = Instant::now();
    loop {
        match ask_once(port) {
            Ok(answer) if !answer.is_empty() => return Ok(answer),
            _ if start.elapsed() < DEADLINE => thread::sleep(Duration::from_millis(100)),
            other => return other.context("no answer"),
        }
    }
}

fn ask_once(port: u16) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
