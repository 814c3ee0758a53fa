//! The assembly guests of `tests/guests/payload` that check what their protocol promises them.

use std::fs;
use std::path::{Path, PathBuf};

use abi::firmware::Protocol;
use anyhow::Result;
use xtask::guests::Form;

/// One of them, entered in one way.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its source.
    pub source: &'static str,
    /// Its file's form.
    pub form: Form,
    /// The protocol, where the firmware is not to find it out.
    pub protocol: Option<Protocol>,
    /// What it says when all was right.
    pub pass: &'static str,
}

/// All of them.
pub const CHECKS: [Check; 11] = {
    const fn check(source: &'static str, form: Form, pass: &'static str) -> Check {
        Check { source, form, protocol: None, pass }
    }
    const fn by(protocol: Protocol, pass: &'static str) -> Check {
        Check { protocol: Some(protocol), ..check("bzimage", Form::BzImage, pass) }
    }
    [
        check("pvh", Form::Elf32, "pvh: pass"),
        check("pvh", Form::Elf64, "pvh: pass"),
        check("multiboot1", Form::Elf32, "multiboot1: pass"),
        check("multiboot1", Form::Elf64, "multiboot1: pass"),
        check("multiboot1", Form::Flat, "multiboot1: pass"),
        check("multiboot2", Form::Elf32, "multiboot2: pass"),
        check("multiboot2", Form::Elf64, "multiboot2: pass"),
        check("elf64", Form::Elf64, "elf64: pass"),
        check("bzimage", Form::BzImage, "bzimage: pass, 64 bits"),
        by(Protocol::Linux32, "bzimage: pass, 32 bits"),
        by(Protocol::Linux16, "bzimage: pass, real mode"),
    ]
};

impl Check {
    /// A name for tests.
    #[must_use]
    pub fn name(&self) -> String {
        let protocol = self.protocol.map_or(String::new(), |protocol| format!("_{}", protocol.word()));
        format!("{}_{}{protocol}", self.source, format!("{:?}", self.form).to_lowercase())
    }

    /// The command line that tells it what it is to find, with this many modules.
    #[must_use]
    pub fn cmdline(&self, modules: usize, strings: bool, acpi: bool) -> String {
        // To Linux, modules are one initrd without strings.
        let strings = u8::from(strings && self.form != Form::BzImage);
        format!("check modules={modules} strings={strings} acpi={} low=1", u8::from(acpi))
    }
}

/// The two modules that they know, in a folder, and their strings.
pub fn modules(place: &Path) -> Result<[(PathBuf, String); 2]> {
    let module = |name: &str, text: &str, string: &str| {
        let path = place.join(name);
        fs::write(&path, text).map(|()| (path, string.to_owned()))
    };
    Ok([module("first", "first module", "first one=1")?, module("second", "second module", "second")?])
}
