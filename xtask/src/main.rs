//! `cargo xtask`: builds, runs, tests and measures Jiffy. One file per task.

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::ctx::{self, Ctx};

mod printing;
mod tasks;

use printing::Failure;

/// Builds, runs, tests and measures Jiffy.
#[derive(Parser)]
#[command(name = "cargo xtask", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: ctx::Options,
    #[command(subcommand)]
    task: Task,
}

/// One line per task; each task's own file describes its arguments.
#[derive(Subcommand)]
enum Task {
    Bench(tasks::bench::Args),
    Build(tasks::build::Args),
    Ci(tasks::ci::Args),
    Clean(tasks::clean::Args),
    Doctor(tasks::doctor::Args),
    Fuzz(tasks::fuzz::Args),
    Guard(tasks::guard::Args),
    Kernel(tasks::kernel::Args),
    Profile(tasks::profile::Args),
    Run(tasks::run::Args),
    Test(tasks::test::Args),
    Tidy(tasks::tidy::Args),
}

fn main() -> ExitCode {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if printing::failure(panic.payload()).is_none() {
            usual(panic);
        }
    }));
    let cli = Cli::parse();
    match panic::catch_unwind(|| run(cli)) {
        Ok(code) => code,
        Err(panic) => match printing::failure(&*panic) {
            Some(Failure::ReaderGone) => ExitCode::from(printing::READER_GONE),
            Some(Failure::Other(why)) => {
                // Standard error may be what failed.
                let _ = writeln!(io::stderr(), "xtask: {why}");
                ExitCode::from(ctx::FAILED)
            }
            None => panic::resume_unwind(panic),
        },
    }
}

fn run(cli: Cli) -> ExitCode {
    let done = Ctx::new(&cli.global).and_then(|ctx| match cli.task {
        Task::Bench(args) => tasks::bench::run(&ctx, &args),
        Task::Build(args) => tasks::build::run(&ctx, &args),
        Task::Ci(args) => tasks::ci::run(&ctx, &args),
        Task::Clean(args) => tasks::clean::run(&ctx, &args),
        Task::Doctor(args) => tasks::doctor::run(&ctx, &args),
        Task::Fuzz(args) => tasks::fuzz::run(&ctx, &args),
        Task::Guard(args) => tasks::guard::run(&ctx, &args),
        Task::Kernel(args) => tasks::kernel::run(&ctx, &args),
        Task::Profile(args) => tasks::profile::run(&ctx, &args),
        Task::Run(args) => tasks::run::run(&ctx, &args),
        Task::Test(args) => tasks::test::run(&ctx, &args),
        Task::Tidy(args) => tasks::tidy::run(&ctx, &args),
    });
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(ctx::FAILED)
    })
}
