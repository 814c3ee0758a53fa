//! What functions the lab's kernel has, and where.

use std::fs;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;

use agent::Status;

use crate::cache;
use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::lab::{self, Lab, Speed, Way};

/// What `/proc/kallsyms` says in the nested lab: Debian's kernels come without their symbols. It is asked once for a
/// kernel and a choice of modules, which are loaded in one order and so to the same addresses each time.
pub(super) fn kallsyms(ctx: &Ctx, modules: &[String]) -> Result<String> {
    let kernel = Kernel::debian(ctx)?;
    let with: String = modules.iter().flat_map(|module| ["+", module]).collect();
    let folder = cache::folder(ctx, &format!("kallsyms-{}{with}", kernel.package.record.sha256), |place| {
        let _step = ctx.step("Asking the lab's kernel for its symbols");
        let mut lab = Lab::new(Way::Nested(Speed::Exact { seed: 1 }));
        lab.modules = modules.to_vec();
        let step = lab::step("kallsyms", ["/bin/sh", "-c", "gzip -c /proc/kallsyms > {out}/kallsyms.gz"]);
        let report = lab.run(ctx, &[step])?;
        let step = report.steps.first().context("no report")?;
        let said = String::from_utf8_lossy(&step.stderr);
        ensure!(step.status == Status::Exited(0), "{:?}: {said}", step.status);
        Ok(fs::write(place.join("kallsyms.gz"), step.files.get("kallsyms.gz").context("no file")?)?)
    })?;
    let mut text = String::new();
    GzDecoder::new(fs::File::open(folder.join("kallsyms.gz"))?).read_to_string(&mut text)?;
    Ok(text)
}
