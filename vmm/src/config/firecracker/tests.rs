use crate::config::{
    CacheMode, ConsoleSpec, DEFAULT_CMDLINE, Error, FileRef, HugePages, IoEngine, RawConfig, TapRef, VmSpec,
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
                  "rate_limiter": { "bandwidth": { "size": 1000, "one_time_burst": 5, "refill_time": 100 },
                                    "ops": { "size": 0, "refill_time": 100 } } },
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
    assert_eq!((data.bandwidth, data.ops), (Some("1000/100ms+5".parse().unwrap()), None));
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
        (r#"{"boot-source": {"boot_args": "x"}}"#, "fc:1: boot-source: missing field `kernel_image_path`"),
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
        (r#"{"machine-config": {"vcpu_count": 2}}"#, "fc:1: machine-config: missing field `mem_size_mib`"),
        (
            r#"{"boot-source": {"kernel_image_path": "k"}, "network-interfaces": [{"iface_id": "a", "host_dev_name": "b/c"}]}"#,
            "fc:1: network-interfaces[0]: `b/c` is no tap: write the name of an interface, up to 15 bytes, or fd:N",
        ),
        (r#"{"machine-config": []}"#, "fc: machine-config: this section is an object, in braces"),
    ] {
        assert_eq!(read(text).unwrap_err().to_string(), expected);
    }
}
