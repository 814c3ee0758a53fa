//! `kernel`: guest kernels in the cache.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use indicatif::HumanBytes;
use xtask::ctx::Ctx;
use xtask::kernel::Kernel;
use xtask::tuned::config::Config;
use xtask::tuned::{Recipe, Tuned, Variant, why};

/// Build or fetch guest kernels, list those that are there, and say what is in them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// Which of jiffy's own kernels
    #[arg(long, global = true, value_enum, default_value_t)]
    variant: Variant,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Build a kernel of jiffy's own from Debian's source
    ///
    /// `fast` takes some eight minutes of a processor and 2 GB of the cache, which are given back; `full` twice as much.
    /// An interrupted build is taken up where it was. Another source, or none of the patches, makes a trial for
    /// figures to compare: patches that do not fit are left out, wishes that are not granted are not insisted on, and each
    /// is named. It is in the cache beside the others, and nothing takes it but by its path.
    Build {
        /// Try the newest version of this source package of this suite of Debian's
        #[arg(long, value_name = "SUITE/PACKAGE")]
        source: Option<String>,
        /// Try it without the patches
        #[arg(long)]
        no_patches: bool,
    },
    /// Get Debian's newest kernel for virtual machines, as apt's lists have it
    Fetch,
    /// List the kernels in the cache
    List,
    /// Print the configuration that is wished, with reasons
    Config {
        /// Print the one that it was built with instead
        #[arg(long)]
        built: bool,
    },
    /// Say why an option is on, or off
    Why {
        /// The option, with or without CONFIG_
        option: String,
    },
}

/// Does one of these.
pub fn run(ctx: &Ctx, args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Build { source, no_patches } => {
            let mut recipe = Recipe::read(ctx, args.variant)?;
            if source.is_some() || *no_patches {
                recipe = recipe.trial(ctx, source.as_deref(), !no_patches)?;
            }
            print_tuned(&recipe.build(ctx)?, &recipe)?;
        }
        What::Fetch => print_debian(&Kernel::newest_debian(ctx)?),
        What::List => list(ctx)?,
        What::Config { built: false } => {
            for file in args.variant.fragments() {
                print!("{}", read(&ctx.root.join(file))?);
            }
        }
        What::Config { built: true } => {
            print!("{}", read(&in_cache(ctx, &Recipe::read(ctx, args.variant)?)?.config())?);
        }
        What::Why { option } => {
            let recipe = Recipe::read(ctx, args.variant)?;
            let tuned = in_cache(ctx, &recipe)?;
            let known = serde_json::from_str(&read(&tuned.known())?).context("damaged; build it anew")?;
            let config = Config::parse(&read(&tuned.config())?)?;
            let option = option.to_uppercase();
            let option = option.strip_prefix("CONFIG_").unwrap_or(&option);
            println!("{}", why::why(option, &recipe.fragment, &config, &known));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(ctx: &Ctx) -> Result<()> {
    match Kernel::cached_debian(ctx)? {
        Some(kernel) => print_debian(&kernel),
        None => println!("debian  not there; to get it: cargo xtask kernel fetch"),
    }
    for variant in Variant::ALL {
        let recipe = Recipe::read(ctx, variant)?;
        match recipe.cached(ctx) {
            Some(tuned) => print_tuned(&tuned, &recipe)?,
            None => {
                println!("{variant:<7} not there; to get it: cargo xtask kernel build --variant {variant}");
            }
        }
        let other = |tuned: &Tuned| tuned.variant == variant && tuned.key != recipe.key();
        for tuned in Tuned::all(ctx)?.into_iter().filter(other) {
            println!("{variant:<7} {}  of another source, configuration, patch or compiler", tuned.key);
            println!("        {}", tuned.image().display());
        }
    }
    Ok(())
}

fn print_debian(kernel: &Kernel) {
    let record = &kernel.package.record;
    println!("debian  {}  {} {}", kernel.release, record.package, record.version);
    println!("        {}", kernel.image.display());
}

fn print_tuned(tuned: &Tuned, recipe: &Recipe) -> Result<()> {
    println!("{:<7} {}  {}", tuned.variant, tuned.key, recipe.origin());
    for file in [tuned.vmlinux(), tuned.image()].into_iter().chain(tuned.modules()) {
        let size = fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.len();
        println!("        {}  {}", file.display(), HumanBytes(size));
    }
    Ok(())
}

fn in_cache(ctx: &Ctx, recipe: &Recipe) -> Result<Tuned> {
    match recipe.cached(ctx) {
        Some(tuned) => Ok(tuned),
        None => bail!(
            "the kernel is not in the cache as it is configured now: cargo xtask kernel build --variant {}",
            recipe.variant
        ),
    }
}

fn read(path: &std::path::Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
