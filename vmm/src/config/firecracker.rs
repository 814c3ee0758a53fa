//! Firecracker's configuration files (`firecracker --config-file`), so that its users can start with what they
//! have. What is there is honoured or refused, never passed over.
//!
//! The form is that of Firecracker 1.x, `src/vmm/src/resources.rs`, type `VmmConfig`.

mod drives;
mod network;

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
        let net = nets.collect::<Result<_, _>>().map_err(|e: ValueError| Error::Invalid {
            place: place(file, "network-interfaces".to_owned()),
            reason: e.to_string(),
        })?;
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

#[cfg(test)]
mod tests {
    use crate::config::{
        CacheMode, ConsoleSpec, DEFAULT_CMDLINE, Error, FileRef, HugePages, IoEngine, RawConfig, TapRef,
        VmSpec,
    };

    fn read(text: &str) -> Result<VmSpec, Error> {
        RawConfig::parse(&FileRef::Path("fc".into()), text.as_bytes())?.into_spec()
    }

    #[test]
    fn what_there_is_is_honoured() {
        let spec = read(
            r#"{
                "boot-source": { "kernel_image_path": "k", "boot_args": "console=ttyS0", "initrd_path": "i" },
                "machine-config": {
                    "vcpu_count": 2, "mem_size_mib": 1024, "smt": false, "track_dirty_pages": false,
                    "huge_pages": "2M", "cpu_template": "None"
                },
                "serial": { "serial_out_path": "log", "rate_limiter": null },
                "drives": [], "balloon": null, "network-interfaces": [{
                    "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:AC:10:00:02",
                    "rx_rate_limiter": { "bandwidth": { "size": 1000, "refill_time": 100, "one_time_burst": 5 } },
                    "tx_rate_limiter": { "ops": { "size": 0, "refill_time": 0 } }
                }],
                "vsock": { "vsock_id": "v", "guest_cid": 3, "uds_path": "s" }, "logger": {},
                "cpu-config": null, "entropy": { "rate_limiter": null }, "metrics": null, "mmds-config": null, "pmem": [],
                "memory-hotplug": null
            }"#,
        )
        .unwrap();
        assert_eq!(spec.boot.kernel, Some(FileRef::Path("k".into())));
        assert_eq!(spec.boot.initrd, Some(FileRef::Path("i".into())));
        assert_eq!(spec.boot.cmdline, "console=ttyS0");
        assert_eq!((spec.cpus, spec.memory.size, spec.memory.huge), (2, 1 << 30, HugePages::Size2M));
        assert_eq!(spec.console, ConsoleSpec::File(FileRef::Path("log".into())));
        assert!(spec.devices.rng.is_some());
        let net = &spec.devices.nets[0];
        assert_eq!(net.tap, Some(TapRef::Name("tap0".to_owned())));
        assert_eq!(net.mac.unwrap().bytes(), [6, 0, 0xac, 0x10, 0, 2]);
        assert_eq!((net.rx_bandwidth.unwrap().to_string(), net.tx_ops), ("1000/100ms+5".to_owned(), None));
        let vsock = spec.devices.vsock.unwrap();
        assert_eq!((vsock.cid.get(), vsock.path), (3, FileRef::Path("s".into())));
    }

    #[test]
    fn drives_are_disks_and_the_root_is_the_first() {
        let spec = read(
            r#"{
                "boot-source": { "kernel_image_path": "k", "boot_args": "quiet" },
                "drives": [
                    { "drive_id": "data", "path_on_host": "d", "is_root_device": false, "is_read_only": false,
                      "cache_type": "Writeback", "io_engine": "Async",
                      "rate_limiter": { "bandwidth": { "size": 1000, "one_time_burst": 5, "refill_time": 100 } } },
                    { "drive_id": "rootfs", "path_on_host": "r", "is_root_device": true, "is_read_only": true }
                ],
                "pmem": [{ "id": "p", "path_on_host": "m", "read_only": true }]
            }"#,
        )
        .unwrap();
        assert_eq!(spec.boot.cmdline, "quiet root=/dev/vda ro");
        let [root, data] = &spec.devices.disks[..] else { panic!("{:?}", spec.devices.disks) };
        assert_eq!((&root.path, root.readonly), (&FileRef::Path("r".into()), true));
        assert_eq!((root.cache, root.io), (CacheMode::Unsafe, IoEngine::Sync));
        assert_eq!((data.cache, data.io), (CacheMode::Writeback, IoEngine::Uring));
        assert_eq!(data.bandwidth, Some("1000/100ms+5".parse().unwrap()));
        assert!(spec.devices.pmem[0].readonly);
        let two = r#"{ "boot-source": { "kernel_image_path": "k" }, "drives": [
            { "drive_id": "a", "path_on_host": "a", "is_root_device": true },
            { "drive_id": "b", "path_on_host": "b", "is_root_device": true }] }"#;
        let expected = "fc: drives[1] (\"b\"): there is another root device: leave one";
        assert_eq!(read(two).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_is_left_out_has_our_defaults() {
        let old = r#"{ "boot-source": { "kernel_image_path": "k", "initrd_path": null },
                       "machine-config": { "vcpu_count": 1, "mem_size_mib": 128, "ht_enabled": false } }"#;
        assert_eq!(read(old).unwrap().boot.cmdline, DEFAULT_CMDLINE);
    }

    #[test]
    fn what_there_is_not_is_refused_by_name() {
        for (text, expected) in [
            (
                r#""drives": [{ "drive_id": "a", "is_root_device": false, "socket": "s" }]"#,
                r#"drives[0] ("a").socket: Jiffy has no disks of other processes (vhost-user)"#,
            ),
            (
                r#""pmem": [{ "id": "a", "path_on_host": "p", "rate_limiter": { "ops": null } }]"#,
                r#"pmem[0] ("a").rate_limiter: Jiffy has no rate limiter of persistent memory"#,
            ),
            (r#""balloon": { "amount_mib": 0 }"#, "balloon: Jiffy has no memory balloon"),
            (
                r#""entropy": { "rate_limiter": { "bandwidth": {} } }"#,
                "entropy.rate_limiter: Jiffy has no rate limiter of the entropy device",
            ),
            (r#""logger": { "log_path": "l" }"#, "logger: Jiffy has no log file"),
            (r#""metrics": { "metrics_path": "m" }"#, "metrics: Jiffy has no metrics file"),
            (r#""mmds-config": { "version": "V2" }"#, "mmds-config: Jiffy has no metadata service"),
            (r#""cpu-config": "t.json""#, "cpu-config: Jiffy has no CPU templates"),
            (r#""memory-hotplug": { "total_size_mib": 1 }"#, "memory-hotplug: Jiffy has no memory hot-plug"),
            (
                r#""serial": { "rate_limiter": { "size": 1 } }"#,
                "serial.rate_limiter: Jiffy has no rate limiter of the console",
            ),
            (
                r#""machine-config": { "vcpu_count": 2, "mem_size_mib": 128, "smt": true }"#,
                "machine-config.smt: Jiffy has no vCPUs that share a core",
            ),
            (
                r#""machine-config": { "vcpu_count": 2, "mem_size_mib": 128, "track_dirty_pages": true }"#,
                "machine-config.track_dirty_pages: Jiffy has no tracking of dirty pages for snapshots",
            ),
            (
                r#""machine-config": { "vcpu_count": 2, "mem_size_mib": 128, "cpu_template": "T2" }"#,
                "machine-config.cpu_template: Jiffy has no CPU templates",
            ),
        ] {
            let text = format!(r#"{{ "boot-source": {{ "kernel_image_path": "k" }}, {text} }}"#);
            let expected = format!("fc: {expected} yet; take this out to start without");
            assert_eq!(read(&text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, expected) in [
            (
                r#"{"boot-source": {"boot_args": "x"}}"#,
                "fc:1: boot-source: missing field `kernel_image_path`",
            ),
            (
                r#"{"boot-source": {"kernel_image_path": "k", "initrd": "x"}}"#,
                "fc: boot-source.initrd: unknown key; did you mean `initrd_path`?",
            ),
            (
                r#"{"boot-source": {"kernel_image_path": "k"}, "drive": []}"#,
                "fc: drive: unknown key; did you mean `drives`?",
            ),
            (
                "{\n\"machine-config\": {\"vcpu_count\": 0, \"mem_size_mib\": 128}}",
                "fc:2: machine-config: `0` is not a number of CPUs that a VM can have: give 1 to 254",
            ),
            (
                r#"{"machine-config": {"vcpu_count": 1, "mem_size_mib": 1}}"#,
                "fc: machine-config.mem_size_mib: 1048576 bytes are too little memory: give 2M or more",
            ),
            (
                r#"{"machine-config": {"vcpu_count": 1, "mem_size_mib": 18446744073709551615}}"#,
                "fc: machine-config.mem_size_mib: `18446744073709551615` is more memory than a VM can have: give 4T or less",
            ),
            (
                r#"{"machine-config": {"vcpu_count": 2}}"#,
                "fc:1: machine-config: missing field `mem_size_mib`",
            ),
            (
                r#"{"boot-source": {"kernel_image_path": "k"}, "network-interfaces": [{"iface_id": "a", "host_dev_name": "b/c"}]}"#,
                "fc:1: network-interfaces: `b/c` is no tap: write the name of an interface, up to 15 bytes, or fd:N",
            ),
            (r#"{"machine-config": []}"#, "fc: machine-config: this section is an object, in braces"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), expected);
        }
    }
}
