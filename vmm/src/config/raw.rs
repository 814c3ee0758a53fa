//! What a user gave, in flags or in a file; all of it optional, every single value valid.
//!
//! One type serves both, so every key of the file has the name of its flag.

use std::ffi::OsString;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::switch;
use super::{
    Cmdline, ConsoleDevice, ConsoleSpec, Cpus, DiskConfig, FileRef, FwCfgFile, Kaslr, MachineKind,
    ModuleConfig, Nanoseconds, NetConfig, PmemConfig, PortConfig, Protocol, RawMemory, RngConfig,
    TimelineMode, TransportKind, VsockConfig, pairs,
};

/// The configuration of a VM. Every key has the name of its flag of `jiffy run`, and what is left out has the
/// same default. Wherever a file is named, `fd:N` stands for a descriptor that the parent process left open;
/// paths are relative to the current directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(title = "Jiffy VM configuration")]
pub struct RawConfig {
    /// Kernel to boot: a bzImage (vmlinuz) or an ELF file (vmlinux)
    #[arg(long, value_name = "FILE", help_heading = "Boot", value_parser = file())]
    #[schemars(with = "Option<String>")]
    pub kernel: Option<FileRef>,

    /// Initial RAM file system for the kernel
    #[arg(long, value_name = "FILE", help_heading = "Boot", value_parser = file())]
    #[schemars(with = "Option<String>")]
    pub initrd: Option<FileRef>,

    /// Kernel command line [default: console=ttyS0 quiet loglevel=3 panic=-1 reboot=k]
    ///
    /// The default puts the kernel's console where --console says, keeps it from chattering,
    /// and makes a panic or a reboot end the VM at once. A line of your own replaces all of it.
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Boot",
        allow_hyphen_values = true,
        verbatim_doc_comment
    )]
    #[schemars(with = "Option<String>")]
    pub cmdline: Option<Cmdline>,

    /// ROM image to start first; it then starts the kernel, if there is one
    #[arg(long, value_name = "FILE", help_heading = "Boot", value_parser = file())]
    #[schemars(with = "Option<String>")]
    pub firmware: Option<FileRef>,

    /// A file that the firmware loads beside the kernel; can be given several times
    ///
    /// file=FILE,cmdline=TEXT: a module of Multiboot and PVH, with its command line.
    /// An initrd is the first one.
    #[arg(long, value_name = "file=FILE,…", help_heading = "Boot", verbatim_doc_comment,
          value_parser = pairs::parse::<ModuleConfig>)]
    #[serde(default, deserialize_with = "pairs::many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<super::schema::Device<ModuleConfig>>")]
    pub module: Vec<ModuleConfig>,

    /// A file of the firmware configuration device; can be given several times
    ///
    /// name=NAME,file=FILE or name=NAME,string=TEXT, as with QEMU.
    #[arg(long, value_name = "name=NAME,…", help_heading = "Boot", verbatim_doc_comment,
          value_parser = pairs::parse::<FwCfgFile>)]
    #[serde(default, deserialize_with = "pairs::many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<super::schema::Device<FwCfgFile>>")]
    pub fw_cfg: Vec<FwCfgFile>,

    /// How the kernel is entered; all but auto, linux64 and pvh need a firmware [default: auto]
    #[arg(long, value_name = "PROTOCOL", help_heading = "Boot")]
    pub protocol: Option<Protocol>,

    /// Unpack a compressed kernel on the host, which is faster than in the guest [default: on]
    #[arg(long, value_name = "on|off", help_heading = "Boot", value_parser = switch)]
    pub unpack: Option<bool>,

    /// Where an unpacked kernel is placed: random, off, or from a seed [default: random]
    ///
    /// A random address (KASLR) makes attacks on the kernel harder. "off" and a seed are for runs
    /// that must repeat exactly.
    #[arg(long, value_name = "random|off|SEED", help_heading = "Boot", verbatim_doc_comment)]
    #[schemars(schema_with = "super::schema::text_or_number")]
    pub kaslr: Option<Kaslr>,

    /// Number of virtual CPUs, 1 to 254 [default: 1]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    #[schemars(with = "Option<u8>", range(min = 1, max = 254))]
    pub cpus: Option<Cpus>,

    /// Memory, such as 512M, 2G or 2G,huge=2M,prealloc [default: 256M]
    ///
    /// A number without a unit is in MiB. Options after the size:
    ///   huge=default|thp|2M|1G  which huge pages are behind it: as the host is configured,
    ///                           transparent ones, or from the host's pool of that size
    ///   prealloc                touch all of it before the guest starts
    ///   shared                  make it shareable with other processes
    #[arg(long, value_name = "SIZE[,OPTION…]", help_heading = "Machine", verbatim_doc_comment)]
    #[serde(default, deserialize_with = "some_memory")]
    #[schemars(schema_with = "super::schema::memory")]
    pub memory: Option<RawMemory>,

    /// Set of devices that guests of old need: fast has none of them, legacy all [default: fast]
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    pub machine: Option<MachineKind>,

    /// Promise the guest a TSC of constant rate; such a VM cannot migrate [default: off]
    #[arg(long, value_name = "on|off", help_heading = "Machine", value_parser = switch,
          num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub invtsc: Option<bool>,

    /// How the guest reaches its virtio devices [default: mmio]
    #[arg(long, value_name = "TRANSPORT", help_heading = "Devices")]
    pub transport: Option<TransportKind>,

    /// Give the guest a disk; may be repeated
    ///
    /// Options:
    ///   readonly                     the guest may only read
    ///   format=raw|qcow2             what the image is [default: by its name, qcow2 or raw]
    ///   overlay=tmp|FILE             write there instead of to the image, which many VMs can share;
    ///                                tmp is gone with the VM, FILE is kept (qcow2)
    ///   cache=writeback|writethrough|unsafe
    ///                                whether the guest has to flush, need not, or cannot
    ///   direct                       leave out the host's page cache
    ///   io=auto|sync|uring           how a raw image is read and written
    ///   queues=N                     number of queues [default: 1]
    ///   serial=TEXT                  serial number
    ///   physical-block-size=SIZE     what the guest had best write at once
    ///   bandwidth=RATE, ops=RATE     limits in bytes and in requests: 10M, 1M/100ms, 10M+100M
    ///   transport=mmio|mmio-cmdline|pci
    ///                                how the guest reaches it
    #[arg(long, value_name = "path=FILE[,OPTION…]", help_heading = "Devices", verbatim_doc_comment,
          value_parser = pairs::parse::<DiskConfig>)]
    #[serde(default, deserialize_with = "pairs::many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<super::schema::Device<DiskConfig>>")]
    pub disk: Vec<DiskConfig>,

    /// Give the guest a network card; may be repeated
    ///
    /// Its other end:
    ///   tap=NAME                     an interface of the host, which is made if it is not there
    ///   tap=fd:N[:N…]                the same, handed over; a descriptor for each pair of queues
    ///   passt=SOCKET                 the Unix socket of passt, which needs no privileges
    /// Options:
    ///   mac=ADDRESS                  hardware address [default: a random one]
    ///   mtu=BYTES                    longest packet
    ///   queues=N                     pairs of queues [default: 1]
    ///   rx-bandwidth=RATE, rx-ops=RATE, tx-bandwidth=RATE, tx-ops=RATE
    ///                                limits to what the guest receives and sends, in bytes and in
    ///                                frames: 10M, 1M/100ms, 10M+100M
    ///   transport=mmio|mmio-cmdline|pci
    ///                                how the guest reaches it
    #[arg(long, value_name = "tap=NAME|passt=SOCKET[,OPTION…]", help_heading = "Devices", verbatim_doc_comment,
          value_parser = pairs::parse::<NetConfig>)]
    #[serde(default, deserialize_with = "pairs::many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<super::schema::Device<NetConfig>>")]
    pub net: Vec<NetConfig>,

    /// Give the guest a file as persistent memory, in its address space; may be repeated
    ///
    /// Options:
    ///   readonly                     the guest may only read
    ///   private                      what it writes is its own, and gone with the VM
    ///   transport=mmio|mmio-cmdline|pci
    ///                                how the guest reaches it
    #[arg(long, value_name = "path=FILE[,OPTION…]", help_heading = "Devices", verbatim_doc_comment,
          value_parser = pairs::parse::<PmemConfig>)]
    #[serde(default, deserialize_with = "pairs::many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<super::schema::Device<PmemConfig>>")]
    pub pmem: Vec<PmemConfig>,

    /// Give the guest random numbers of the host
    ///
    /// Options: transport=mmio|mmio-cmdline|pci
    #[arg(long, value_name = "OPTION…", help_heading = "Devices", verbatim_doc_comment,
          value_parser = pairs::parse::<RngConfig>, num_args = 0..=1, require_equals = true,
          default_missing_value = "")]
    #[serde(default, deserialize_with = "pairs::one", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<super::schema::Device<RngConfig>>")]
    pub rng: Option<RngConfig>,

    /// What carries the console: the serial port, or a virtio console (hvc0) [default: serial]
    ///
    /// The default kernel command line follows it. Both write to where --console says; what is typed
    /// goes to the one that is chosen.
    #[arg(long, value_name = "DEVICE", help_heading = "Devices", verbatim_doc_comment)]
    pub console_device: Option<ConsoleDevice>,

    /// Add a port to the virtio console, whose output goes to a file
    ///
    /// Options: name=NAME, by which the guest finds it (/sys/class/virtio-ports/*/name); file=FILE
    #[arg(long, value_name = "name=NAME,file=FILE", help_heading = "Devices", verbatim_doc_comment,
          value_parser = pairs::parse::<PortConfig>)]
    #[serde(default, deserialize_with = "pairs::many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<super::schema::Device<PortConfig>>")]
    pub port: Vec<PortConfig>,

    /// Give the guest sockets to host programs, by Firecracker's convention
    ///
    /// A host program connects to the Unix socket at PATH, writes "CONNECT PORT" and a newline, and reads
    /// "OK" and a number; the guest reaches the host's port N at the Unix socket PATH_N.
    /// Options: transport=mmio|mmio-cmdline|pci
    #[arg(long, value_name = "cid=N,path=FILE[,OPTION…]", help_heading = "Devices", verbatim_doc_comment,
          value_parser = pairs::parse::<VsockConfig>)]
    #[serde(default, deserialize_with = "pairs::one", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<super::schema::Device<VsockConfig>>")]
    pub vsock: Option<VsockConfig>,

    /// Where the serial console goes: stdio, file=FILE or off [default: stdio]
    #[arg(long, value_name = "WHERE", help_heading = "Output")]
    #[schemars(with = "Option<String>")]
    pub console: Option<ConsoleSpec>,

    /// Show on standard error where the time went [default: off]
    #[arg(long, value_name = "FORM", help_heading = "Output")]
    pub timeline: Option<TimelineMode>,

    /// When the caller started us, in nanoseconds of CLOCK_MONOTONIC: the timeline begins there
    #[arg(long, value_name = "NS", help_heading = "Output")]
    #[schemars(with = "Option<u64>", range(max = i64::MAX))]
    pub timeline_origin: Option<Nanoseconds>,

    /// Write how the VM ended to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output", value_parser = file())]
    #[schemars(with = "Option<String>")]
    pub result: Option<FileRef>,
}

impl RawConfig {
    /// What is given here, and from `other` what is not.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let Self {
            kernel,
            initrd,
            cmdline,
            firmware,
            module,
            fw_cfg,
            protocol,
            unpack,
            kaslr,
            cpus,
            memory,
            machine,
            invtsc,
            transport,
            disk,
            net,
            pmem,
            rng,
            console_device,
            port,
            vsock,
            console,
            timeline,
            timeline_origin,
            result,
        } = self;
        Self {
            kernel: kernel.or(other.kernel),
            initrd: initrd.or(other.initrd),
            cmdline: cmdline.or(other.cmdline),
            firmware: firmware.or(other.firmware),
            module: if module.is_empty() { other.module } else { module },
            fw_cfg: if fw_cfg.is_empty() { other.fw_cfg } else { fw_cfg },
            protocol: protocol.or(other.protocol),
            unpack: unpack.or(other.unpack),
            kaslr: kaslr.or(other.kaslr),
            cpus: cpus.or(other.cpus),
            memory: match (memory, other.memory) {
                (Some(first), Some(second)) => Some(first.or(second)),
                (first, second) => first.or(second),
            },
            machine: machine.or(other.machine),
            invtsc: invtsc.or(other.invtsc),
            transport: transport.or(other.transport),
            disk: if disk.is_empty() { other.disk } else { disk },
            net: if net.is_empty() { other.net } else { net },
            pmem: if pmem.is_empty() { other.pmem } else { pmem },
            rng: rng.or(other.rng),
            console_device: console_device.or(other.console_device),
            port: if port.is_empty() { other.port } else { port },
            vsock: vsock.or(other.vsock),
            console: console.or(other.console),
            timeline: timeline.or(other.timeline),
            timeline_origin: timeline_origin.or(other.timeline_origin),
            result: result.or(other.result),
        }
    }
}

/// Paths need not be UTF-8, so they are read before anything takes them for text.
pub(crate) fn file() -> ValueParser {
    OsStringValueParser::new().try_map(|text: OsString| FileRef::new(&text)).into()
}

fn some_memory<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<RawMemory>, D::Error> {
    super::memory::text_or_table(deserializer).map(Some)
}
