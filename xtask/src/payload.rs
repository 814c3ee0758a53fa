//! Payloads for Jiffy's firmware under QEMU: how they and what goes with them are given.

use std::fs;
use std::path::{Path, PathBuf};

use abi::firmware::{CMDLINE, KERNEL, MODULES, PROTOCOL, Protocol};
use abi::modules::{self, Entry, Header};
use anyhow::{Context, Result};
use zerocopy::IntoBytes;

/// What a firmware is to boot.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// Its file.
    pub kernel: PathBuf,
    /// Its command line.
    pub cmdline: String,
    /// Modules and their strings.
    pub modules: Vec<(PathBuf, String)>,
    /// How it is entered, if the firmware is not to find out.
    pub protocol: Option<Protocol>,
}

impl Payload {
    /// QEMU's arguments by which the firmware gets everything as files; `place` is a folder for what is made.
    pub fn qemu_args(&self, place: &Path) -> Result<Vec<String>> {
        let mut args = vec![file(KERNEL, &self.kernel), text(CMDLINE, &self.cmdline)];
        if !self.modules.is_empty() {
            let path = place.join("modules");
            fs::write(&path, archive(&self.modules)?)?;
            args.push(file(MODULES, &path));
        }
        args.extend(self.protocol.map(|protocol| text(PROTOCOL, protocol.word())));
        Ok(args.into_iter().flat_map(|value| ["-fw_cfg".to_owned(), value]).collect())
    }
}

/// A file of fw_cfg whose content is in a file; for QEMU a comma in a value is two.
fn file(name: &str, path: &Path) -> String {
    format!("name={name},file={}", path.display().to_string().replace(',', ",,"))
}

fn text(name: &str, text: &str) -> String {
    format!("name={name},string={}", text.replace(',', ",,"))
}

/// An archive of modules ([`abi::modules`]).
fn archive(files: &[(PathBuf, String)]) -> Result<Vec<u8>> {
    let strings: usize = files.iter().map(|(_, string)| string.len()).sum();
    let header = modules::header(files.len(), strings).context("more modules than an archive takes")?;
    let mut archive = header.as_bytes().to_vec();
    let mut data = Vec::new();
    let mut string_offset = (size_of::<Header>() + files.len() * size_of::<Entry>()) as u32;
    for (path, string) in files {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let entry = Entry {
            data_offset: (u64::from(header.head_len.get()) + data.len() as u64).into(),
            data_len: (bytes.len() as u64).into(),
            string_offset: string_offset.into(),
            string_len: (string.len() as u32).into(),
            reserved: 0.into(),
        };
        archive.extend_from_slice(entry.as_bytes());
        string_offset += string.len() as u32;
        data.extend(bytes);
    }
    archive.extend(files.iter().flat_map(|(_, string)| string.bytes()));
    archive.extend(data);
    Ok(archive)
}
