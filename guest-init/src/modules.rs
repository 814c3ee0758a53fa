//! Kernel modules, loaded with what they depend on.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;

use rustix::fs::{Access, Mode, OFlags, access, open};
use rustix::io::Errno;
use rustix::system::{finit_module, uname};

use crate::config::c_string;
use crate::error::Error;
use crate::file;

/// Where modules lie if nobody says what they depend on.
const FLAT: &str = "/lib/modules";
/// `MODULE_INIT_COMPRESSED_FILE` of Linux's `include/uapi/linux/module.h`.
const COMPRESSED_FILE: i32 = 4;
/// Endings of module files; all but the first ask the kernel to unpack (Linux 5.17, `CONFIG_MODULE_DECOMPRESS`).
const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];
/// Far more than any distribution's list of modules.
const MODULES_DEP_LIMIT: usize = 2 << 20;

/// Loads `modules`, each given by its name and parameters.
///
/// Where `/lib/modules/RELEASE/modules.dep` is, what a module depends on is loaded before it. Else modules are
/// `/lib/modules/NAME.ko` (or `.ko.xz`, …), loaded in the order given. What the kernel has already is passed over.
pub fn load(modules: &[(String, CString)]) -> Result<(), Error> {
    if modules.is_empty() {
        return Ok(());
    }
    let folder = format!("{FLAT}/{}", uname().release().to_string_lossy());
    let list = format!("{folder}/modules.dep");
    let dependencies = match file::read(&c_string([&list]), MODULES_DEP_LIMIT) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(Error::system("read", list)(errno)),
    };
    for (name, parameters) in modules {
        if loaded(name) {
            continue;
        }
        let Some(dependencies) = &dependencies else {
            load_flat(name, parameters)?;
            continue;
        };
        let files = in_order(dependencies, name)
            .ok_or_else(|| Error::NoModule { name: name.clone(), place: list.clone() })?;
        for file in files {
            let parameters = if is_named(file, name) { parameters } else { c"" };
            insert(&format!("{folder}/{file}"), parameters)?;
        }
    }
    Ok(())
}

/// Modules have a folder in sysfs, those that are built in as well (if they have parameters or a version).
fn loaded(name: &str) -> bool {
    let folder = c_string(["/sys/module/", &name.replace('-', "_")]);
    access(&*folder, Access::EXISTS).is_ok()
}

fn load_flat(name: &str, parameters: &CStr) -> Result<(), Error> {
    let candidates = [name.to_string(), name.replace('-', "_"), name.replace('_', "-")];
    for (name, ending) in candidates.iter().flat_map(|name| ENDINGS.map(|ending| (name, ending))) {
        let path = format!("{FLAT}/{name}{ending}");
        if access(path.as_str(), Access::EXISTS).is_ok() {
            return insert(&path, parameters);
        }
    }
    Err(Error::NoModule { name: name.into(), place: FLAT.into() })
}

fn insert(path: &str, parameters: &CStr) -> Result<(), Error> {
    let file =
        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::system("open", path))?;
    let flags = if path.ends_with(ENDINGS[0]) { 0 } else { COMPRESSED_FILE };
    match finit_module(&file, parameters, flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::system("load", path)(errno)),
    }
}

/// The files to load for the module `name`, in order, from the text of `modules.dep` (modules.dep(5)): a line is
/// `FILE: FILE…`, with all that the first depends on, directly or not, each before what it depends on itself.
fn in_order<'a>(dependencies: &'a str, name: &str) -> Option<Vec<&'a str>> {
    dependencies.lines().find_map(|line| {
        let (file, before) = line.split_once(':')?;
        is_named(file, name).then(|| before.split_whitespace().rev().chain([file]).collect())
    })
}

/// Whether the module in `file` has this name; `-` and `_` mean the same.
fn is_named(file: &str, name: &str) -> bool {
    let base = file.rsplit('/').next().unwrap_or(file);
    let Some(base) = ENDINGS.iter().find_map(|ending| base.strip_suffix(ending)) else { return false };
    let alike = |a: u8, b: u8| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_'));
    base.len() == name.len() && base.bytes().zip(name.bytes()).all(|(a, b)| alike(a, b))
}

#[cfg(test)]
mod tests {
    use super::{in_order, is_named};

    const DEPENDENCIES: &str = "\
kernel/virt/lib/irqbypass.ko:
kernel/arch/x86/kvm/kvm.ko: kernel/virt/lib/irqbypass.ko
kernel/arch/x86/kvm/kvm-amd.ko.xz: kernel/drivers/crypto/ccp/ccp.ko kernel/arch/x86/kvm/kvm.ko kernel/virt/lib/irqbypass.ko
";

    #[test]
    fn dependencies_come_first() {
        let cases = [
            ("irqbypass", Some(["kernel/virt/lib/irqbypass.ko"].as_slice())),
            ("kvm", Some(&["kernel/virt/lib/irqbypass.ko", "kernel/arch/x86/kvm/kvm.ko"])),
            (
                "kvm_amd",
                Some(&[
                    "kernel/virt/lib/irqbypass.ko",
                    "kernel/arch/x86/kvm/kvm.ko",
                    "kernel/drivers/crypto/ccp/ccp.ko",
                    "kernel/arch/x86/kvm/kvm-amd.ko.xz",
                ]),
            ),
            ("kvm_intel", None),
        ];
        for (name, files) in cases {
            assert_eq!(in_order(DEPENDENCIES, name).as_deref(), files, "{name}");
        }
    }

    #[test]
    fn names_of_files() {
        assert!(is_named("kvm-amd.ko", "kvm_amd"));
        assert!(is_named("a/b/kvm_amd.ko.zst", "kvm-amd"));
        for (file, name) in
            [("kvm.ko", "kvm-amd"), ("kvm-amd", "kvm-amd"), ("a/xkvm.ko", "kvm"), ("kvm.o", "kvm")]
        {
            assert!(!is_named(file, name), "{file} {name}");
        }
    }
}
