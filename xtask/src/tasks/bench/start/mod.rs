//! `bench start`: what it takes to start a VM whose guest marks and stops at once.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::ctx::Ctx;

mod memory;
mod native;
mod nested;
mod programs;
mod report;
mod targets;

use programs::{Files, Program};

/// Start-up time, idle memory and size, beside QEMU's microvm and the unavoidable system calls
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Native starts of each program with each size of RAM
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Leave the nested lab out
    #[arg(long)]
    no_nested: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Figures {
    native: native::Native,
    /// In millions of instructions.
    nested: Vec<nested::Start>,
    memory: Vec<memory::Memory>,
    /// Bytes of the stripped binary.
    jiffy_bytes: u64,
}

/// Measures, prints the table, and says which targets are met. A target that is missed is no failure: wall time is
/// the host's.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    let files = Files::make(ctx)?;
    let step = ctx.step("Starting VMs natively");
    let mut native = native::measure(ctx, &files, args.rounds, &step)?;
    let mut memory = Vec::new();
    if !native.series.is_empty() {
        step.message("Looking at idle VMs");
        for program in [Program::Jiffy, Program::Qemu] {
            match memory::measure(&files, program) {
                Ok(found) => memory.push(found),
                Err(e) => native.left_out.push(format!("idle memory: {e:#}")),
            }
        }
    }
    let mut nested = Vec::new();
    if !args.no_nested {
        step.message("Starting VMs in the nested lab, counting instructions");
        nested = nested::measure(ctx, &files)?;
    }
    drop(step);
    let size = fs::metadata(&files.jiffy).with_context(|| files.jiffy.display().to_string())?.len();
    let figures = Figures { native, nested, memory, jiffy_bytes: size };
    let targets = targets::judge(&figures);
    if args.json {
        let json = serde_json::json!({ "figures": figures, "targets": targets });
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        print!("{}", report::text(&figures, &targets));
    }
    Ok(ExitCode::SUCCESS)
}
