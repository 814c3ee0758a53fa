//! What other people boot: a memory tester, a network boot loader, and a hypervisor with a kernel as its module.

use abi::firmware::Protocol;
use anyhow::Result;
use libtest_mimic::Trial;
use tests::suite;
use xtask::foreign;
use xtask::kernel::Kernel;
use xtask::payload::Payload;

use super::{MACHINES, boot_until, machine};

pub(super) fn trials() -> Vec<Trial> {
    let memtests = MACHINES.map(|name| suite::test(&format!("memtest86+ on {name}"), move || memtest(name)));
    let xens = [
        ("q35", Protocol::Multiboot1, "Linux version 6."),
        // Where it is moved to the end of memory, as its header wishes.
        ("pc", Protocol::Multiboot2, "Linux version 6."),
        // QEMU's microvm has none of the timers that Xen knows.
        ("microvm", Protocol::Multiboot1, "Unable to find usable platform timer"),
    ];
    let xens = xens.map(|(name, protocol, last)| {
        suite::test(&format!("xen_{} on {name}", protocol.word()), move || xen(name, protocol, last))
    });
    let ipxe = suite::test("ipxe on pc", ipxe);
    let tables = ["pc,acpi=off", "q35,acpi=off"];
    let tables = tables.map(|name| suite::test(&format!("processors on {name}"), move || processors(name)));
    memtests.into_iter().chain(xens).chain([ipxe]).chain(tables).collect()
}

/// Without ACPI, Memtest86+ finds processors by the MultiProcessor table.
fn processors(name: &str) -> Result<()> {
    let ctx = suite::context()?;
    let mut machine = machine(&ctx, name)?;
    (machine.memory_mib, machine.cpus) = (64, 2);
    machine.kernel = Some(foreign::memtest(&ctx)?);
    machine.cmdline = foreign::MEMTEST_CMDLINE.to_owned();
    boot_until(&ctx, &machine, &["CPU: 2 Cores 2 Threads"])
}

/// Its title, and a test at work on a part of memory; which one it is when it next draws its screen is chance.
fn memtest(name: &str) -> Result<()> {
    let ctx = suite::context()?;
    let mut machine = machine(&ctx, name)?;
    machine.memory_mib = 64;
    machine.kernel = Some(foreign::memtest(&ctx)?);
    machine.cmdline = foreign::MEMTEST_CMDLINE.to_owned();
    boot_until(&ctx, &machine, &["Memtest86+ v6", "Testing", "MB of "])
}

/// It sees that it has no card when it has been up for two seconds, by the BIOS's timer.
fn ipxe() -> Result<()> {
    let ctx = suite::context()?;
    let mut machine = machine(&ctx, "pc")?;
    machine.kernel = Some(foreign::ipxe(&ctx)?);
    // It writes to the serial port by itself, and by the BIOS.
    boot_until(
        &ctx,
        &machine,
        &["iiPPXXEE  iinniittiiaalliissiinngg", "NNoo  mmoorree  nneettwwoorrkk  ddeevviicceess"],
    )
}

/// Xen's own lines, and the first of the kernel that it starts, or what it ends with.
fn xen(name: &str, protocol: Protocol, last: &str) -> Result<()> {
    let ctx = suite::context()?;
    let made = tempfile::tempdir()?;
    let payload = Payload {
        kernel: foreign::xen(&ctx)?,
        cmdline: foreign::XEN_CMDLINE.to_owned(),
        modules: vec![(Kernel::debian(&ctx)?.image, foreign::DOM0_CMDLINE.to_owned())],
        protocol: Some(protocol),
    };
    let mut machine = machine(&ctx, name)?;
    machine.memory_mib = 512;
    machine.args.extend(payload.qemu_args(made.path())?);
    boot_until(&ctx, &machine, &["(XEN) Xen version 4.17", last])
}
