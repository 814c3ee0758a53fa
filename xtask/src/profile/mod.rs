//! What each function of a boot costs, in instructions: counted exactly, by a plugin of QEMU's, in the nested lab or
//! under QEMU alone. Two runs give the same counts. See `docs/measuring.md`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::built;
use crate::ctx::Ctx;
use crate::kernel::Kernel;

mod alone;
mod diff;
mod initcalls;
mod lab_kernel;
mod nested;
mod place;
mod plugin;
mod symbols;

pub use alone::alone;
pub use diff::{Grown, grown};
pub use nested::{Start, Stuck, first_to_end, run};
pub use symbols::Symbols;

use place::Everything;
use plugin::{RawExit, World};

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// `jiffy`.
    Vmm,
    /// The kernel of the lab, KVM included: the host's, as `jiffy` sees it.
    LabKernel,
    /// Other programs in the lab: its agent, its init.
    LabProgram,
    /// Our firmware, in the guest.
    Firmware,
    /// The guest's kernel.
    GuestKernel,
    /// The guest's init.
    Init,
    /// All else in the guest.
    GuestOther,
}

impl Code {
    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmm => "jiffy",
            Self::LabKernel => "lab kernel",
            Self::LabProgram => "lab programs",
            Self::Firmware => "firmware",
            Self::GuestKernel => "guest kernel",
            Self::Init => "init",
            Self::GuestOther => "other in guest",
        }
    }
}

/// Instructions by function.
pub type Functions = BTreeMap<String, u64>;

/// From one event of the timeline to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// The event that it ends with, by its name in the timeline.
    pub name: String,
    /// How long it took, in nanoseconds of virtual time, where the timeline says so: one for each instruction, and
    /// waits.
    pub took_ns: Option<u64>,
    /// What was executed.
    pub costs: BTreeMap<Code, Functions>,
}

impl Phase {
    /// All instructions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.costs.values().flat_map(BTreeMap::values).sum()
    }
}

/// Exits of one kind that one function of the guest made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exit {
    /// The phase's name.
    pub phase: String,
    /// The instruction that made it (`in`, `out`, `cpuid`, `rdmsr`, `wrmsr`, `hlt`, …), `page-fault` where KVM gave the guest
    /// memory, `mmio` where it emulated an access, or `interrupt`.
    pub kind: String,
    /// The guest's function.
    pub function: String,
    /// How many.
    pub count: u64,
    /// Instructions that the lab's kernel executed for them, from leaving the guest to entering it again.
    pub kernel: u64,
    /// Instructions that programs of the lab executed for them.
    pub user: u64,
}

/// A function that the guest's kernel calls at boot, with all that it calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initcall {
    /// Its function.
    pub name: String,
    /// Instructions of the guest; of other threads as well, while it waited.
    pub guest: u64,
    /// Instructions of the lab meanwhile.
    pub lab: u64,
}

/// What a boot cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Which boot.
    pub name: String,
    /// In their order.
    pub phases: Vec<Phase>,
    /// Sorted.
    pub exits: Vec<Exit>,
    /// In the order of their calls.
    pub initcalls: Vec<Initcall>,
}

impl Profile {
    /// The functions of some code, by phase.
    #[must_use]
    pub fn functions(&self, of: &[Code]) -> BTreeMap<String, Functions> {
        let mut all: BTreeMap<String, Functions> = BTreeMap::new();
        for phase in &self.phases {
            let functions = all.entry(phase.name.clone()).or_default();
            for (function, count) in of.iter().filter_map(|code| phase.costs.get(code)).flatten() {
                *functions.entry(function.clone()).or_default() += count;
            }
        }
        all
    }
}

/// What is the same in all boots, with the names of its functions.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `jiffy`.
    pub vmm: Symbols,
    /// The guest's init.
    pub init: Symbols,
    /// The ROM, where it is linked to.
    pub firmware: Symbols,
}

impl Programs {
    /// All as cargo has built them last, which is what is in `target/dist`.
    pub fn built(ctx: &Ctx) -> Result<Self> {
        let [vmm, init] = [built::JIFFY, built::INIT].map(|part| Symbols::of(&part.symbols(ctx)?));
        Ok(Self { vmm: vmm?, init: init?, firmware: Symbols::of(&built::firmware_elf(ctx))? })
    }
}

impl Symbols {
    /// Of Debian's kernel, which has none in its files: the lab runs it, and is asked.
    pub fn debian(ctx: &Ctx) -> Result<Self> {
        let vmlinux = std::fs::read(Kernel::debian(ctx)?.vmlinux(ctx)?)?;
        Self::of_kernel(&vmlinux, &lab_kernel::kallsyms(ctx, &[])?)
    }
}

/// The guest's exits, by kind and function.
fn exits<'a>(
    everything: &Everything<'_>,
    phase: &str,
    exits: impl IntoIterator<Item = &'a RawExit>,
) -> Vec<Exit> {
    let mut sums: BTreeMap<(String, String), [u64; 3]> = BTreeMap::new();
    for exit in exits.into_iter().filter(|exit| exit.at.world == World::Guest) {
        let (_, function) = everything.place(&exit.at);
        let sum = sums.entry((exit.kind.clone(), function.to_owned())).or_default();
        for (sum, add) in sum.iter_mut().zip([exit.count, exit.kernel, exit.user]) {
            *sum += add;
        }
    }
    let exit = |((kind, function), [count, kernel, user]): (_, [u64; 3])| Exit {
        phase: phase.to_owned(),
        kind,
        function,
        count,
        kernel,
        user,
    };
    sums.into_iter().map(exit).collect()
}
