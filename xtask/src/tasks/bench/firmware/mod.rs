//! `bench firmware`: from reset to a payload's first instruction under QEMU, for Jiffy's firmware and those that
//! Debian packages.

mod log;
mod nested;
mod report;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde::Serialize;
use xtask::ctx::Ctx;
use xtask::guests::{self, Form};
use xtask::{apt, built};

use super::super::build;
use log::Accesses;

/// Measure firmwares from reset to a payload's first instruction, beside those that Debian packages
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The firmwares
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Firmware::Jiffy, Firmware::Qboot, Firmware::Seabios])]
    firmware: Vec<Firmware>,
    /// A ROM in place of Jiffy's own, to see what a change does
    #[arg(long, value_name = "FILE")]
    rom: Option<PathBuf>,
    /// Leave out starts under jiffy in the nested lab
    #[arg(long)]
    alone: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Firmware {
    Jiffy,
    Qboot,
    Seabios,
}

impl Firmware {
    /// The ROM's file, for a machine of QEMU's.
    fn rom(self, ctx: &Ctx, args: &Args, machine: &str) -> Result<PathBuf> {
        const QBOOT: &str = "/usr/share/qemu/qboot.rom";
        const SEABIOS: [&str; 2] =
            ["/usr/share/seabios/bios-microvm.bin", "/usr/share/seabios/bios-256k.bin"];
        let (path, package) = match self {
            Self::Jiffy => {
                return args.rom.clone().map_or_else(|| built::FIRMWARE.path(ctx), Ok);
            }
            Self::Qboot => (QBOOT, "qemu-system-data"),
            Self::Seabios => (SEABIOS[usize::from(!machine.starts_with("microvm"))], "seabios"),
        };
        apt::file(ctx, path, package)?;
        Ok(path.into())
    }
}

/// How a payload is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Payload {
    Pvh,
    #[serde(rename = "bzImage")]
    BzImage,
    Multiboot,
}

impl Payload {
    fn file(self, ctx: &Ctx) -> Result<PathBuf> {
        let (name, form) = match self {
            Self::Pvh => ("first-pvh", Form::Elf32),
            Self::BzImage => ("first-bzimage", Form::BzImage),
            Self::Multiboot => ("first-multiboot", Form::Elf32),
        };
        guests::payload(ctx, name, form)
    }
}

/// A machine and what it boots, and what Jiffy's firmware may take for it.
#[derive(Clone, Copy, Debug)]
struct Case {
    machine: &'static str,
    /// Devices with BARs.
    devices: &'static [&'static str],
    payload: Payload,
    target: Target,
}

/// At most this much.
#[derive(Clone, Copy, Debug, Serialize)]
struct Target {
    instructions: u64,
    /// But for those to BARs and bridges.
    accesses: u64,
}

impl Target {
    fn is_met(self, way: &Way) -> bool {
        way.instructions <= self.instructions && way.accesses.accesses <= self.accesses
    }
}

/// Devices with BARs, where a machine is to have some.
const DEVICES: &[&str] = &["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"];

const CASES: [Case; 11] = {
    const fn microvm(machine: &'static str, payload: Payload, instructions: u64) -> Case {
        Case { machine, devices: &[], payload, target: Target { instructions, accesses: 60 } }
    }
    const fn pci(machine: &'static str, payload: Payload, instructions: u64) -> Case {
        Case { machine, devices: &[], payload, target: Target { instructions, accesses: 200 } }
    }
    const fn with_bars(case: Case) -> Case {
        Case { devices: DEVICES, ..case }
    }
    [
        microvm("microvm,acpi=off", Payload::BzImage, 4_000),
        microvm("microvm", Payload::Pvh, 10_000),
        microvm("microvm", Payload::BzImage, 10_000),
        microvm("microvm", Payload::Multiboot, 10_000),
        microvm("microvm,pcie=on", Payload::Pvh, 20_000),
        with_bars(microvm("microvm,pcie=on", Payload::Pvh, 30_000)),
        pci("q35", Payload::Pvh, 50_000),
        pci("q35", Payload::BzImage, 50_000),
        with_bars(pci("q35", Payload::Pvh, 75_000)),
        pci("pc", Payload::Pvh, 50_000),
        with_bars(pci("pc", Payload::Pvh, 75_000)),
    ]
};

/// One way from reset to a payload.
#[derive(Clone, Copy, Debug, Serialize)]
struct Way {
    /// Instructions before the payload's first.
    instructions: u64,
    #[serde(flatten)]
    accesses: Accesses,
}

/// All that was found of one case, in the order of the firmwares.
#[derive(Debug, Serialize)]
struct Row {
    machine: &'static str,
    bars: bool,
    payload: Payload,
    target: Target,
    /// None where the firmware does not get there.
    found: Vec<(Firmware, Option<Way>)>,
}

/// Everything, for programs.
#[derive(Debug, Serialize)]
struct Figures {
    qemu: Vec<Row>,
    nested: Vec<nested::Start>,
}

/// Runs each firmware on each machine.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    ensure!(!args.firmware.is_empty(), "no firmware named");
    if !args.alone {
        build::agent(ctx)?;
    }
    if !args.alone || args.firmware.contains(&Firmware::Jiffy) && args.rom.is_none() {
        build::all(ctx)?;
    }
    let step = ctx.step("Starting firmwares under QEMU, counting instructions");
    let rows = CASES.iter().map(|case| row(ctx, args, case)).collect::<Result<Vec<_>>>()?;
    drop(step);
    let mut nested = Vec::new();
    if !args.alone {
        let _step = ctx.step("Starting them under jiffy in the nested lab");
        // SeaBIOS would need an option ROM, and takes thousands of times as long.
        let roms = args.firmware.iter().filter(|firmware| **firmware != Firmware::Seabios);
        let roms = roms.map(|firmware| Ok((*firmware, firmware.rom(ctx, args, "microvm")?)));
        nested = nested::measure(ctx, &roms.collect::<Result<Vec<_>>>()?)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&Figures { qemu: rows, nested })?);
    } else {
        print!("{}", report::text(&rows, &nested, &report::sizes(ctx, args)?));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(ctx: &Ctx, args: &Args, case: &Case) -> Result<Row> {
    let Case { machine, devices, payload, target } = *case;
    let found = args
        .firmware
        .iter()
        .map(|&firmware| {
            let way = run::measure(ctx, case, firmware.rom(ctx, args, machine)?)?;
            Ok((firmware, way))
        })
        .collect::<Result<_>>()?;
    Ok(Row { machine, bars: !devices.is_empty(), payload, target, found })
}
