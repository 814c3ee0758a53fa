//! Firecracker's configuration files (`firecracker --config-file`), so that its users can start with what they
//! have. What is there is honoured or refused, never passed over.
//!
//! The form is that of Firecracker 1.x, `src/vmm/src/resources.rs`, type `VmmConfig`.

mod drives;
mod network;
mod rate;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Map, Value};

use drives::{Drive, Pmem};

use super::keys::{fields, nearest};
use super::load::read_json;
use super::{
    Cid, Cmdline, ConsoleSpec, Cpus, Error, FileRef, HugePages, MemorySize, Place, RawConfig, RawMemory,
    RngConfig, ValueError, VsockConfig,
};

use network::NetworkInterface;

const BOOT: &str = "boot-source";
const MACHINE: &str = "machine-config";
const SERIAL: &str = "serial";
const VSOCK: &str = "vsock";
const ENTROPY: &str = "entropy";

/// All sections; those of which any content is refused are not looked into.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    boot_source: Option<BootSource>,
    machine_config: Option<MachineConfig>,
    serial: Option<Serial>,
    balloon: Option<Value>,
    cpu_config: Option<Value>,
    drives: Option<Vec<Drive>>,
    entropy: Option<Entropy>,
    logger: Option<Value>,
    memory_hotplug: Option<Value>,
    metrics: Option<Value>,
    mmds_config: Option<Value>,
    network_interfaces: Option<Vec<NetworkInterface>>,
    pmem: Option<Vec<Pmem>>,
    vsock: Option<Vsock>,
}

#[derive(Deserialize)]
struct BootSource {
    kernel_image_path: FileRef,
    initrd_path: Option<FileRef>,
    boot_args: Option<Cmdline>,
}

#[derive(Deserialize)]
struct MachineConfig {
    vcpu_count: Cpus,
    mem_size_mib: u64,
    /// Its name up to Firecracker 0.25 was `ht_enabled`.
    #[serde(alias = "ht_enabled")]
    smt: Option<bool>,
    track_dirty_pages: Option<bool>,
    huge_pages: Option<PageSize>,
    cpu_template: Option<String>,
}

#[derive(Deserialize)]
enum PageSize {
    None,
    #[serde(rename = "2M")]
    Huge2M,
}

#[derive(Deserialize)]
struct Serial {
    serial_out_path: Option<FileRef>,
    rate_limiter: Option<Value>,
}

#[derive(Deserialize)]
struct Entropy {
    rate_limiter: Option<Value>,
}

/// The numbers and names are those of `--vsock`; `vsock_id` means nothing any more.
#[derive(Deserialize)]
struct Vsock {
    guest_cid: Cid,
    uds_path: FileRef,
    #[serde(rename = "vsock_id")]
    _id: Option<String>,
}

/// Whether a JSON configuration is of Firecracker's form: ours has no such keys.
pub(super) fn recognises(document: &Map<String, Value>) -> bool {
    document.contains_key(BOOT) || document.contains_key(MACHINE)
}

/// Reads a configuration of Firecracker's form; `content` is what `text` says.
pub(super) fn parse(file: &FileRef, text: &str, content: &Map<String, Value>) -> Result<RawConfig, Error> {
    check_keys(file, "", content, fields::<Document>())?;
    for (section, known) in [
        (BOOT, fields::<BootSource>()),
        (MACHINE, fields::<MachineConfig>()),
        (SERIAL, fields::<Serial>()),
        (VSOCK, fields::<Vsock>()),
        (ENTROPY, fields::<Entropy>()),
    ] {
        match content.get(section) {
            None | Some(Value::Null) => {}
            Some(Value::Object(inner)) => check_keys(file, section, inner, known)?,
            Some(_) => {
                let reason = "this section is an object, in braces".to_owned();
                return Err(Error::Invalid { place: place(file, section.to_owned()), reason });
            }
        }
    }
    read_json::<Document>(file, text, content)?.into_raw(file)
}

fn check_keys(
    file: &FileRef,
    section: &str,
    content: &Map<String, Value>,
    known: &[&'static str],
) -> Result<(), Error> {
    match content.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            Err(Error::UnknownKey { place: place(file, path), nearest: nearest(key, known) })
        }
    }
}

impl Document {
    fn into_raw(self, file: &FileRef) -> Result<RawConfig, Error> {
        let Self {
            boot_source,
            machine_config,
            serial,
            balloon,
            cpu_config,
            drives,
            entropy,
            logger,
            memory_hotplug,
            metrics,
            mmds_config,
            network_interfaces,
            pmem,
            vsock,
        } = self;
        for (section, content, what) in [
            ("balloon", balloon, "memory balloon"),
            ("cpu-config", cpu_config, "CPU templates"),
            ("logger", logger, "log file"),
            ("memory-hotplug", memory_hotplug, "memory hot-plug"),
            ("metrics", metrics, "metrics file"),
            ("mmds-config", mmds_config, "metadata service"),
        ] {
            refuse(file, section, content.as_ref(), what)?;
        }
        let boot = boot_source.map(BootSource::into_raw).unwrap_or_default();
        let (drives, pmem) = (drives.unwrap_or_default(), pmem.unwrap_or_default());
        let boot = drives::into_raw(file, drives, pmem, boot.cmdline.clone())?.or(boot);
        let machine = machine_config.map(|machine| machine.into_raw(file)).transpose()?.unwrap_or_default();
        let serial = serial.map(|serial| serial.into_raw(file)).transpose()?.unwrap_or_default();
        let vsock = vsock.map(Vsock::into_config);
        let rng = entropy.map(|entropy| entropy.into_config(file)).transpose()?;
        let nets = network_interfaces.unwrap_or_default().into_iter().map(NetworkInterface::into_config);
        let net = nets.collect();
        Ok(RawConfig { net, vsock, rng, ..boot.or(machine).or(serial) })
    }
}

impl BootSource {
    fn into_raw(self) -> RawConfig {
        let Self { kernel_image_path, initrd_path, boot_args } = self;
        RawConfig {
            kernel: Some(kernel_image_path),
            initrd: initrd_path,
            cmdline: boot_args,
            ..RawConfig::default()
        }
    }
}

impl MachineConfig {
    fn into_raw(self, file: &FileRef) -> Result<RawConfig, Error> {
        let Self { vcpu_count, mem_size_mib, smt, track_dirty_pages, huge_pages, cpu_template } = self;
        let template = cpu_template.filter(|name| name != "None");
        for (key, asked, what) in [
            ("smt", smt == Some(true), "vCPUs that share a core"),
            ("track_dirty_pages", track_dirty_pages == Some(true), "tracking of dirty pages for snapshots"),
            ("cpu_template", template.is_some(), "CPU templates"),
        ] {
            if asked {
                return Err(Error::Unsupported { place: place(file, format!("{MACHINE}.{key}")), what });
            }
        }
        let size = mem_size_mib
            .checked_mul(1 << 20)
            .map_or_else(|| Err(ValueError::MemoryTooLarge(mem_size_mib.to_string())), MemorySize::new);
        let size = size.map_err(|e| Error::Invalid {
            place: place(file, format!("{MACHINE}.mem_size_mib")),
            reason: e.to_string(),
        })?;
        let huge = huge_pages.map(|pages| match pages {
            PageSize::None => HugePages::Default,
            PageSize::Huge2M => HugePages::Size2M,
        });
        Ok(RawConfig {
            cpus: Some(vcpu_count),
            memory: Some(RawMemory { size: Some(size), huge, ..RawMemory::default() }),
            ..RawConfig::default()
        })
    }
}

impl Vsock {
    fn into_config(self) -> VsockConfig {
        let Self { guest_cid: cid, uds_path: path, _id } = self;
        VsockConfig { cid, path, transport: None }
    }
}

impl Entropy {
    fn into_config(self, file: &FileRef) -> Result<RngConfig, Error> {
        let Self { rate_limiter } = self;
        refuse(file, "entropy.rate_limiter", rate_limiter.as_ref(), "rate limiter of the entropy device")?;
        Ok(RngConfig::default())
    }
}

impl Serial {
    fn into_raw(self, file: &FileRef) -> Result<RawConfig, Error> {
        let Self { serial_out_path, rate_limiter } = self;
        refuse(file, "serial.rate_limiter", rate_limiter.as_ref(), "rate limiter of the console")?;
        Ok(RawConfig { console: serial_out_path.map(ConsoleSpec::File), ..RawConfig::default() })
    }
}

/// Refuses a section that has anything in it, and names its first entry.
fn refuse(file: &FileRef, section: &str, content: Option<&Value>, what: &'static str) -> Result<(), Error> {
    let entry = match content {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(list)) => match list.first() {
            None => return Ok(()),
            Some(first) => {
                match ["drive_id", "iface_id", "id"].iter().find_map(|key| first.get(key)?.as_str()) {
                    Some(id) => format!("{section}[0] (\"{id}\")"),
                    None => format!("{section}[0]"),
                }
            }
        },
        Some(Value::Object(map)) if map.is_empty() => return Ok(()),
        Some(_) => section.to_owned(),
    };
    Err(Error::Unsupported { place: place(file, entry), what })
}

fn invalid(file: &FileRef, key: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Invalid { place: place(file, key.to_owned()), reason: reason.to_string() }
}

fn place(file: &FileRef, key: String) -> Place {
    Place { file: file.clone(), line: None, key }
}
