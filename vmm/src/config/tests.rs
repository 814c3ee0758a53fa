//! Configuration files, good and bad.

use std::fmt::Write;
use std::num::NonZeroU8;

use clap::ValueEnum;
use proptest::prelude::*;

use super::*;

fn read(name: &str, text: &str) -> Result<VmSpec, Error> {
    RawConfig::parse(&name.parse().unwrap(), text.as_bytes())?.into_spec()
}

#[test]
fn the_form_goes_by_name_then_by_content() {
    let expected = read("a.toml", "kernel = 'k'\ncpus = 2\nmemory = 512\n").unwrap();
    let json = r#" { "kernel": "k", "cpus": 2, "memory": "512M" }"#;
    let toml = "kernel='k'\ncpus='2'\n[memory]\nsize=512";
    for (name, text) in [("a.json", json), ("a", json), ("fd:3", json), ("a", toml)] {
        assert_eq!(read(name, text).unwrap(), expected, "{name}");
    }
    assert!(read("a.toml", json).is_err());
    assert!(read("a.json", toml).is_err());
}

#[test]
fn bad_files_get_one_clear_line() {
    let not_cpus = "is not a number of CPUs that a VM can have: give 1 to 254";
    for (text, expected) in [
        ("cpus =\n", "vm:1: string values must be quoted, expected literal string"),
        ("kernel = 'k\n", "vm:1: invalid literal string, expected `'`"),
        ("kernel = 'k'\nkernel = 'l'\n", "vm:2: duplicate key"),
        ("kernel = 'k'\nkernle = 'k'\n", "vm:2: kernle: unknown key; did you mean `kernel`?"),
        ("zzz = 1\nyyy = 1\n", "vm:1: zzz: unknown key; `jiffy schema` lists what there is"),
        ("[[drives]]\npath = 'k'\n", "vm:1: drives: unknown key; `jiffy schema` lists what there is"),
        ("[memory]\nsize = 1\nhug = '2M'\n", "vm:3: memory.hug: unknown key; did you mean `huge`?"),
        ("memory.siz = 1\n", "vm:1: memory.siz: unknown key; did you mean `size`?"),
        (
            "\n\nmemory = '1G,hug=2M'\n",
            "vm:3: memory: `hug=2M` is not an option of memory: after the size come huge=default|thp|2M|1G, prealloc, shared",
        ),
        (
            "memory.size = '3X'\nkernel = 'k'",
            "vm:1: memory.size: `3X` is not a size: write a whole number and K, M, G or T, such as 512M (no unit: MiB)",
        ),
        (
            "memory = true\n",
            "vm:1: memory: invalid type: boolean `true`, expected a size such as \"512M\", or a table of size, huge, prealloc and shared",
        ),
        (
            "[memory]\nsize = '1G'\nhuge = '4M'\n",
            "vm:3: memory.huge: unknown variant `4M`, expected one of `default`, `thp`, `2M`, `1G`",
        ),
        ("cpus = 0\n", &format!("vm:1: cpus: `0` {not_cpus}")),
        ("cpus = -1\n", &format!("vm:1: cpus: `-1` {not_cpus}")),
        (
            "cpus = 1.5\n",
            "vm:1: cpus: invalid type: floating point `1.5`, expected a number of CPUs from 1 to 254",
        ),
        ("unpack = 'on'\n", "vm:1: unpack: invalid type: string \"on\", expected a boolean"),
        ("kernel = 3\n", "vm:1: kernel: invalid type: integer `3`, expected a path or fd:N"),
        ("kernel = ''\n", "vm:1: kernel: the path is empty: name a file"),
        ("[kernel]\npath = 'k'\n", "vm:1: kernel: invalid type: map, expected a path or fd:N"),
        (
            "cmdline = \"a\\u0000b\"\n",
            "vm:1: cmdline: the command line has a NUL at byte 1, where the kernel would cut it: take it out",
        ),
        (
            "[[disk]]\npath = 'a'\n[[disk]]\npath = 'b'\nqueues = 1000\n",
            "vm:5: disk[1].queues: `1000` is no number of queues: give 1 to 255",
        ),
        (
            "disk = ['path=a',\n'path=b,queues=1000']\n",
            "vm:2: disk[1]: queues: `1000` is no number of queues: give 1 to 255",
        ),
        (
            "disk = ['path=a',\n{ path='b', io = 'aio' }]\n",
            "vm:2: disk[1].io: unknown variant `aio`, expected one of `auto`, `sync`, `uring`",
        ),
        ("[[disk]]\npath = 'a'\n[[disk]]\nreadonly = true\n", "vm:3: disk[1]: missing field `path`"),
        (
            "[[port]]\nname = 'a'\nfile = 'b'\n[[port]]\nname = 'c'\nfil = 'd'\n",
            "vm:6: port[1].fil: unknown field `fil`, expected `name` or `file`",
        ),
        ("net = 'tap0'\n", "vm:1: net: `tap0` is no option: did you mean tap=tap0?"),
        (
            "[[net]]\ntap = 'a'\n[[net]]\nmtu = 1500\n",
            "vm:3: net[1]: nothing is at its other end: name a tap or a passt",
        ),
        (
            "{\n\"disk\": [{ \"path\": \"a\" },\n{ \"path\": \"b\", \"queues\": 0 }]}",
            "vm:3: disk[1]: `0` is no number of queues: give 1 to 255",
        ),
        ("console = 'file='\n", "vm:1: console: the path is empty: name a file"),
        ("machine = \"a\\nb\"\n", "vm:1: machine: unknown variant `a\\nb`, expected `fast` or `legacy`"),
        (
            "cpus = 1\n",
            "there is nothing to boot: give --kernel FILE or --firmware FILE (`jiffy run --help` has examples)",
        ),
        ("{\n\"kernel\": \"k\"", "vm:2: EOF while parsing an object"),
        ("{\"kernal\": \"k\"}", "vm: kernal: unknown key; did you mean `kernel`?"),
        ("{\"memory\": {\"sise\": 4}}", "vm: memory.sise: unknown key; did you mean `size`?"),
        ("{\n\"kernel\": \"k\",\n\"cpus\": 0\n}", &format!("vm:3: cpus: `0` {not_cpus}")),
        ("{\n\"kernel\": \"k\", \"kernel\": \"l\"}", "vm:2: duplicate field `kernel`"),
    ] {
        assert_eq!(read("vm", text).unwrap_err().to_string(), expected, "{text}");
    }
    let broken = RawConfig::parse(&FileRef::Fd(4), b"kernel = 'k'\n\xff").unwrap_err();
    assert_eq!(
        broken.to_string(),
        "fd:4:2: this is no configuration file, it is not UTF-8 text: check the name"
    );
    assert_eq!(
        read("vm.json", "[]").unwrap_err().to_string(),
        "vm.json:1: invalid type: sequence, expected a map"
    );
}

#[test]
fn a_command_line_has_a_limit() {
    let with = |len| format!("kernel = 'k'\ncmdline = '{}'", "x".repeat(len));
    assert_eq!(read("vm", &with(Cmdline::MAX)).unwrap().boot.cmdline.len(), Cmdline::MAX);
    let too_long = read("vm", &with(Cmdline::MAX + 1)).unwrap_err().to_string();
    assert_eq!(
        too_long,
        "vm:2: cmdline: the command line has 65536 bytes, for which there is no room: shorten it to 65535 or less"
    );
}

#[test]
fn what_is_not_utf8_is_run_but_not_printed() {
    use std::os::unix::ffi::OsStrExt;

    let odd = FileRef::new(std::ffi::OsStr::from_bytes(b"k\xff")).unwrap();
    let spec = RawConfig { kernel: Some(odd), ..RawConfig::default() }.into_spec().unwrap();
    assert_eq!(
        spec.to_toml().unwrap_err().to_string(),
        "--print-config: the path k\u{fffd} is not UTF-8, which a configuration file must be: rename it, or hand it over as fd:N"
    );
}

fn text() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| text.replace('\0', ""))
}

fn files() -> impl Strategy<Value = FileRef> {
    prop_oneof![
        text().prop_map(|path| FileRef::Path(format!("./{path}").into())),
        (0..=i32::MAX).prop_map(FileRef::Fd),
    ]
}

prop_compose! {
    fn modules()(file in files(), cmdline in text()) -> ModuleConfig {
        ModuleConfig { file, cmdline }
    }
}

fn fw_cfg_files() -> impl Strategy<Value = FwCfgFile> {
    let content = prop_oneof![
        files().prop_map(|file| (Some(file), None)),
        text().prop_map(|string| (None, Some(string))),
    ];
    (text(), content).prop_map(|(name, (file, string))| FwCfgFile { name, file, string })
}

prop_compose! {
    fn boots()(
        kernel in files(),
        initrd in prop::option::of(files()),
        cmdline in text(),
        firmware in prop::option::of(files()),
        modules in prop::collection::vec(modules(), 0..3),
        fw_cfg in prop::collection::vec(fw_cfg_files(), 0..3),
        protocol in prop::sample::select(Protocol::value_variants().to_vec()),
        unpack: bool,
        kaslr in prop_oneof![Just(Kaslr::Random), Just(Kaslr::Off), any::<u64>().prop_map(Kaslr::Seed)],
    ) -> BootSpec {
        let (modules, fw_cfg) = if firmware.is_some() { (modules, fw_cfg) } else { (vec![], vec![]) };
        BootSpec { kernel: Some(kernel), initrd, cmdline, firmware, modules, fw_cfg, protocol, unpack, kaslr }
    }
}

prop_compose! {
    fn memories()(
        (huge, page) in prop::sample::select(vec![
            (HugePages::Default, 4 << 10),
            (HugePages::Thp, 4 << 10),
            (HugePages::Size2M, 2 << 20),
            (HugePages::Size1G, 1 << 30),
        ]),
        bytes in MemorySize::MIN.bytes()..=MemorySize::MAX.bytes(),
        prealloc: bool,
        shared: bool,
    ) -> MemorySpec {
        MemorySpec { size: bytes.next_multiple_of(page), huge, prealloc, shared }
    }
}

fn transports() -> impl Strategy<Value = TransportKind> + Clone {
    prop::sample::select(vec![TransportKind::Mmio, TransportKind::MmioCmdline, TransportKind::Pci])
}

prop_compose! {
    fn disks()(
        path in files(),
        readonly: bool,
        format in prop::sample::select(vec![None, Some(DiskFormat::Raw), Some(DiskFormat::Qcow2)]),
        overlay in prop::option::of(prop_oneof![Just(Overlay::Tmp), files().prop_map(Overlay::File)]),
        cache in prop::sample::select(vec![CacheMode::Writeback, CacheMode::Writethrough, CacheMode::Unsafe]),
        direct: bool,
        io in prop::sample::select(vec![IoEngine::Auto, IoEngine::Sync, IoEngine::Uring]),
        queues in any::<u8>().prop_map(NonZeroU8::new),
        serial in prop::option::of("[ -~]{0,20}".prop_map(|text| text.parse().unwrap())),
        physical_block_size in prop::option::of((9_u32..=21).prop_map(|bits| (1 << bits).to_string().parse().unwrap())),
        rates in prop::option::of((1_u64.., 1_u64..1 << 40, any::<u64>())),
        transport in prop::option::of(transports()),
    ) -> DiskConfig {
        let bucket = rates.map(|(size, refill_time, one_time_burst)| TokenBucket { size, refill_time, one_time_burst });
        DiskConfig {
            path, readonly, format, overlay, cache, direct, io, queues, serial, physical_block_size, transport,
            bandwidth: bucket, ops: bucket,
        }
    }
}

prop_compose! {
    fn nets()(
        tap in prop::option::of(prop_oneof![
            "[a-z0-9]{1,14}".prop_map(TapRef::Name),
            prop::collection::vec((0..=i32::MAX).prop_map(FileRef::Fd), 1..4).prop_map(TapRef::Fds),
        ]),
        passt in files(),
        mac in any::<[u8; 5]>(),
        mtu in prop::option::of(68_u16..),
        rates in prop::option::of((1_u64.., 1_u64..1 << 40, any::<u64>())),
        transport in prop::option::of(transports()),
    ) -> NetConfig {
        let [a, b, c, d, e] = mac;
        let bucket = rates.map(|(size, refill_time, one_time_burst)| TokenBucket { size, refill_time, one_time_burst });
        NetConfig {
            passt: tap.is_none().then_some(passt),
            queues: matches!(tap, Some(TapRef::Name(_))).then_some(NonZeroU8::MAX),
            tap,
            mac: Some(format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02X}:{e:02x}").parse().unwrap()),
            mtu: mtu.map(|mtu| mtu.to_string().parse().unwrap()),
            rx_bandwidth: bucket, rx_ops: None, tx_bandwidth: None, tx_ops: bucket,
            transport,
        }
    }
}

prop_compose! {
    fn vsocks()(cid in 3..u32::MAX, path in files(), transport in prop::option::of(transports())) -> VsockConfig {
        VsockConfig { cid: cid.to_string().parse().unwrap(), path, transport }
    }
}

prop_compose! {
    fn pmem()(
        path in files(),
        readonly: bool,
        private: bool,
        transport in prop::option::of(transports()),
    ) -> PmemConfig {
        PmemConfig { path, readonly, private, transport }
    }
}

prop_compose! {
    fn devices()(
        transport in transports(),
        disks in prop::collection::vec(disks(), 0..3),
        nets in prop::collection::vec(nets(), 0..3),
        pmem in prop::collection::vec(pmem(), 0..3),
        vsock in prop::option::of(vsocks()),
        console in prop::sample::select(vec![ConsoleDevice::Serial, ConsoleDevice::Virtio]),
        ports in prop::collection::btree_map("[a-z]{1,9}", files(), 0..3),
        rng in prop::option::of(
            prop::option::of(transports()).prop_map(|transport| RngConfig { transport }),
        ),
    ) -> DevicesSpec {
        let file = |(name, file)| PortConfig { name, file };
        let ports = ports.into_iter().map(file).collect();
        // No two cards are on one tap.
        let mut nets = nets;
        for (index, net) in nets.iter_mut().enumerate() {
            if let Some(TapRef::Name(name)) = &mut net.tap {
                name.insert_str(0, &index.to_string());
            }
        }
        DevicesSpec { transport, disks, nets, pmem, vsock, rng, console, ports }
    }
}

prop_compose! {
    fn specs()(
        boot in boots(),
        cpus in 1..=254_u8,
        memory in memories(),
        machine in prop::sample::select(vec![MachineKind::Fast, MachineKind::Legacy]),
        devices in devices(),
        console in prop_oneof![
            Just(ConsoleSpec::Stdio),
            Just(ConsoleSpec::Off),
            files().prop_map(ConsoleSpec::File),
        ],
        timeline in prop::sample::select(vec![TimelineMode::Off, TimelineMode::Text, TimelineMode::Json]),
        timeline_origin in prop::option::of(0..=i64::MAX as u64),
        result in prop::option::of(files()),
        invtsc: bool,
    ) -> VmSpec {
        VmSpec { boot, cpus, memory, machine, devices, console, timeline, timeline_origin, result, invtsc }
    }
}

/// Text that comes near to a configuration file.
fn nearly_toml() -> impl Strategy<Value = String> {
    let key = prop::sample::select([fields::<RawConfig>(), &["memory.size", "memory.x", "x"]].concat());
    let value = prop_oneof![
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "[a-z0-9,=]{0,9}".prop_map(|text| format!("'{text}'")),
        any::<String>().prop_map(|text| format!("{text:?}")),
        Just("[]".to_owned()),
        Just("{ size = 3 }".to_owned()),
    ];
    prop::collection::vec((key, value), 0..6).prop_map(|lines| {
        lines.into_iter().fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "{key} = {value}").unwrap();
            text
        })
    })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(spec in specs()) {
        let text = spec.to_toml().unwrap();
        prop_assert_eq!(read("vm", &text).unwrap(), spec);
    }

    #[test]
    fn toml_and_json_say_the_same(spec in specs()) {
        let table: toml::Table = spec.to_toml().unwrap().parse().unwrap();
        let json = serde_json::to_string(&table).unwrap();
        prop_assert_eq!(read("vm", &json).unwrap(), spec);
    }

    #[test]
    fn any_text_is_a_configuration_or_one_line(text in prop_oneof![nearly_toml(), any::<String>()]) {
        for name in ["vm.toml", "vm.json", "vm"] {
            if let Err(e) = read(name, &text) {
                prop_assert_eq!(e.to_string().lines().count(), 1);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = RawConfig::parse(&FileRef::Fd(0), &bytes);
    }
}
