//! Where the guest of `run` runs, and whether it can.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use xtask::ctx::Ctx;
use xtask::lab::qemu;
use xtask::probe::{self, Level, Probe};
use xtask::tuned::Variant;

use super::{Args, host};

/// Where the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    Auto,
    Native,
    Nested,
    Qemu,
}

/// Where it is to run. Fails where it cannot, before a kernel is built for it.
pub fn choose(ctx: &Ctx, args: &Args) -> Result<Place> {
    let place = match args.lab {
        Place::Auto => best(ctx)?,
        chosen => chosen,
    };
    check(ctx, args, place)?;
    Ok(place)
}

fn best(ctx: &Ctx) -> Result<Place> {
    let probe = probe::probe(ctx)?;
    if probe.level == Level::Hardware {
        return Ok(Place::Native);
    }
    eprintln!(
        "KVM cannot run Linux here ({}): using the nested lab",
        probe.reason.as_deref().unwrap_or("no reason given")
    );
    Ok(Place::Nested)
}

fn check(ctx: &Ctx, args: &Args, place: Place) -> Result<()> {
    match place {
        // It was chosen because it can.
        Place::Native if args.lab == Place::Auto => {}
        Place::Auto | Place::Native => {
            if let Some(why) = refusal(args, &probe::probe(ctx)?) {
                bail!("--lab native: {why}: leave --lab out, and the guest runs in the nested lab");
            }
        }
        Place::Nested => {
            host::reachable(&args.jiffy)?;
            qemu::find(ctx)?;
        }
        Place::Qemu => {
            ensure!(
                args.jiffy.is_empty(),
                "arguments for jiffy mean nothing to QEMU: {}",
                args.jiffy.join(" ")
            );
            qemu::find(ctx)?;
        }
    }
    Ok(())
}

/// Why this host's KVM is not enough for the guest. What is in a file nobody knows before `jiffy` has read it.
fn refusal(args: &Args, probe: &Probe) -> Option<String> {
    let is_linux = match &args.kernel {
        None => args.firmware == Path::new("none"),
        Some(name) => name == Path::new("debian") || name.to_str().and_then(Variant::named).is_some(),
    };
    let why = probe.reason.as_deref().unwrap_or("no reason given");
    match probe.level {
        Level::Hardware => None,
        Level::Software if !is_linux => None,
        Level::Software => Some(format!("KVM cannot run Linux here ({why})")),
        Level::None => Some(format!("there is no KVM here ({why})")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_kvm_that_cannot_run_linux_is_refused_before_a_kernel_is_built() {
        let refused = |words: &str, level| {
            let args = Cli::parse_from(words.split(' ')).args;
            refusal(&args, &Probe { level, reason: Some("too slow".to_owned()) })
        };
        for linux in ["run", "run --kernel full", "run --kernel debian --firmware jiffy"] {
            let why = refused(linux, Level::Software).expect(linux);
            assert_eq!(why, "KVM cannot run Linux here (too slow)");
            assert_eq!(refused(linux, Level::Hardware), None, "{linux}");
        }
        for other in ["run --kernel a.elf", "run --firmware jiffy"] {
            assert_eq!(refused(other, Level::Software), None, "{other}");
            assert!(refused(other, Level::None).is_some(), "{other}");
        }
    }
}
