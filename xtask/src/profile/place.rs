//! Whose code was executed.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::plugin::{Place, Run, Segment, World};
use super::{Code, Programs, Symbols};

/// Modules of a kernel are from here on (Linux, `Documentation/arch/x86/x86_64/mm.rst`).
const MODULES: u64 = 0xffff_ffff_c000_0000;

/// All that may execute.
#[derive(Clone, Copy)]
pub(super) struct Everything<'a> {
    pub programs: &'a Programs,
    /// The guest's kernel; without it, all of that kernel's code is one.
    pub kernel: Option<&'a Symbols>,
    /// The lab's kernel with its modules.
    pub lab_kernel: &'a Symbols,
    pub agent: &'a Symbols,
}

impl Everything<'_> {
    /// Costs by code and function.
    pub fn sum<'r>(&self, runs: impl IntoIterator<Item = &'r Run>) -> BTreeMap<Code, BTreeMap<String, u64>> {
        let mut sums: BTreeMap<Code, BTreeMap<String, u64>> = BTreeMap::new();
        for run in runs {
            let (code, function) = self.place(&run.at);
            let costs = sums.entry(code).or_default();
            match costs.get_mut(function) {
                Some(sum) => *sum += run.executed,
                None => drop(costs.insert(function.to_owned(), run.executed)),
            }
        }
        sums
    }

    /// Whose code is at `address`, and in which function. User programs share addresses and are told apart by the
    /// bytes of the block that `address` is in.
    pub fn place(&self, at: &Place) -> (Code, &str) {
        let &Place { world, block, ref head, address } = at;
        let is = |program: &Symbols| program.bytes(block).is_some_and(|bytes| bytes.starts_with(head));
        let Programs { vmm, init, firmware } = self.programs;
        match (world, address >> 63 == 1) {
            (World::Lab, true) => (Code::LabKernel, in_or(self.lab_kernel, address, "elsewhere")),
            (World::Lab, false) if is(vmm) => (Code::Vmm, in_or(vmm, address, "elsewhere")),
            (World::Lab, false) if is(self.agent) => (Code::LabProgram, "the lab's agent"),
            (World::Lab, false) if is(init) => (Code::LabProgram, "the lab's init"),
            (World::Lab, false) if block >> 40 == 0x7f => (Code::LabProgram, "vdso"),
            (World::Lab, false) => (Code::LabProgram, "others"),
            (World::Guest, true) if address >= MODULES => (Code::GuestKernel, "modules"),
            (World::Guest, true) => (Code::GuestKernel, self.in_kernel(Some(address))),
            (World::Guest, false) if is(init) => (Code::Init, in_or(init, address, "elsewhere")),
            (World::Guest, false) if is(firmware) => (Code::Firmware, in_or(firmware, address, "elsewhere")),
            (World::Guest, false) => match self.kernel.and_then(|kernel| kernel.linked(address)) {
                // Before paging is as the kernel wants it, and guests without paging.
                Some(linked) => (Code::GuestKernel, self.in_kernel(Some(linked))),
                None => (Code::GuestOther, if self.kernel.is_some() { "others" } else { "all" }),
            },
        }
    }

    fn in_kernel(&self, address: Option<u64>) -> &str {
        self.kernel.zip(address).map_or("all", |(kernel, address)| in_or(kernel, address, "elsewhere"))
    }

    /// Fails if the guest's kernel is not where it was linked to, so that names would be wrong. What it patches in
    /// its own code is the lesser part.
    pub fn check_kernel(&self, segments: &[Segment]) -> Result<()> {
        let Some(kernel) = self.kernel else { return Ok(()) };
        let (mut same, mut all) = (0, 0);
        for Run { at, .. } in segments.iter().flat_map(|segment| &segment.runs) {
            if at.world != World::Guest || at.address >> 63 == 0 {
                continue;
            }
            if let Some(bytes) = kernel.bytes(at.block) {
                all += 1;
                same += u32::from(bytes.starts_with(&at.head));
            }
        }
        ensure!(
            same >= all / 2,
            "the guest's kernel is not at the addresses that it is linked to, or is another one: start it with \
             --kaslr off"
        );
        Ok(())
    }
}

fn in_or<'a>(program: &'a Symbols, address: u64, other: &'a str) -> &'a str {
    program.function(address).unwrap_or(other)
}
