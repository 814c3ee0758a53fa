//! From what a user gave to a whole [`VmSpec`], and back: defaults, and checks across values.

use super::{
    BootSpec, Cmdline, ConsoleDevice, Cpus, DevicesSpec, Error, HugePages, MemorySize, MemorySpec, RawConfig,
    RawMemory, TapRef, ValueError, VmSpec,
};

/// The command line of a kernel for which none is given: the console on the first serial port (or `hvc0`), critical messages only,
/// and at once a reset, by the keyboard controller, after a panic or on a reboot.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k";

const HEADER: &str = "\
# A whole configuration of `jiffy run`: keep it in a file, and give that with --config.
# Paths are relative to the current directory.
";

impl RawConfig {
    /// Fills in what is not given, and checks what can only be checked together.
    pub fn into_spec(self) -> Result<VmSpec, Error> {
        let cmdline = self.cmdline.map(Cmdline::into_string);
        let cmdline = match (&self.kernel, &self.firmware) {
            (None, None) => return Err(Error::NothingToBoot),
            (None, Some(_)) if self.initrd.is_some() => return Err(Error::NeedsKernel("initrd")),
            (None, Some(_)) if cmdline.as_ref().is_some_and(|line| !line.is_empty()) => {
                return Err(Error::NeedsKernel("cmdline"));
            }
            (None, Some(_)) => String::new(),
            (Some(_), _) => cmdline.unwrap_or_else(|| match self.console_device.unwrap_or_default() {
                ConsoleDevice::Serial => DEFAULT_CMDLINE.to_owned(),
                ConsoleDevice::Virtio => DEFAULT_CMDLINE.replace("ttyS0", "hvc0"),
            }),
        };
        for (key, given) in [("module", !self.module.is_empty()), ("fw-cfg", !self.fw_cfg.is_empty())] {
            if given && self.firmware.is_none() {
                return Err(Error::NeedsFirmware(key));
            }
        }
        if !self.module.is_empty() && self.kernel.is_none() {
            return Err(Error::NeedsKernel("module"));
        }
        let taps = self.net.iter().filter_map(|net| match &net.tap {
            Some(TapRef::Name(name)) => Some(name.as_str()),
            _ => None,
        });
        differ("net", "tap", taps)?;
        let descriptors = self.net.iter().filter_map(|net| match &net.tap {
            Some(TapRef::Fds(descriptors)) => Some(descriptors),
            _ => None,
        });
        differ("net", "tap", descriptors.flatten())?;
        differ("port", "name", self.port.iter().map(|port| port.name.as_str()))?;
        Ok(VmSpec {
            boot: BootSpec {
                kernel: self.kernel,
                initrd: self.initrd,
                cmdline,
                firmware: self.firmware,
                modules: self.module,
                fw_cfg: self.fw_cfg,
                protocol: self.protocol.unwrap_or_default(),
                unpack: self.unpack.unwrap_or(true),
                kaslr: self.kaslr.unwrap_or_default(),
            },
            cpus: self.cpus.unwrap_or(Cpus::ONE).get(),
            memory: memory(self.memory.unwrap_or_default())?,
            machine: self.machine.unwrap_or_default(),
            devices: DevicesSpec {
                transport: self.transport.unwrap_or_default(),
                disks: self.disk,
                nets: self.net,
                pmem: self.pmem,
                vsock: self.vsock,
                rng: self.rng,
                console: self.console_device.unwrap_or_default(),
                ports: self.port,
            },
            console: self.console.unwrap_or_default(),
            timeline: self.timeline.unwrap_or_default(),
            timeline_origin: self.timeline_origin.map(super::Nanoseconds::get),
            result: self.result,
            invtsc: self.invtsc.unwrap_or(false),
        })
    }

    /// All of a specification, with nothing left to defaults.
    fn from_spec(spec: &VmSpec) -> Result<Self, ValueError> {
        let VmSpec {
            boot,
            cpus,
            memory,
            machine,
            devices,
            console,
            timeline,
            timeline_origin,
            result,
            invtsc,
        } = spec;
        let DevicesSpec { transport, disks, nets, pmem, vsock, rng, console: console_device, ports } =
            devices;
        let BootSpec { kernel, initrd, cmdline, firmware, modules, fw_cfg, protocol, unpack, kaslr } = boot;
        let MemorySpec { size, huge, prealloc, shared } = memory;
        Ok(Self {
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            cmdline: Some(cmdline.parse()?),
            firmware: firmware.clone(),
            module: modules.clone(),
            fw_cfg: fw_cfg.clone(),
            protocol: Some(*protocol),
            unpack: Some(*unpack),
            kaslr: Some(*kaslr),
            cpus: Some((*cpus).try_into()?),
            memory: Some(RawMemory {
                size: Some(MemorySize::new(*size)?),
                huge: Some(*huge),
                prealloc: Some(*prealloc),
                shared: Some(*shared),
            }),
            machine: Some(*machine),
            invtsc: Some(*invtsc),
            transport: Some(*transport),
            disk: disks.clone(),
            net: nets.clone(),
            pmem: pmem.clone(),
            rng: rng.clone(),
            console_device: Some(*console_device),
            port: ports.clone(),
            vsock: vsock.clone(),
            console: Some(console.clone()),
            timeline: Some(*timeline),
            timeline_origin: timeline_origin.map(TryInto::try_into).transpose()?,
            result: result.clone(),
        })
    }
}

impl VmSpec {
    /// The specification as a configuration file in TOML, from which the same specification can be read.
    pub fn to_toml(&self) -> Result<String, Error> {
        let raw = RawConfig::from_spec(self).map_err(|e| Error::Unprintable(e.to_string()))?;
        let text = toml::to_string(&raw).map_err(|e| Error::Unprintable(e.to_string()))?;
        Ok(format!("{HEADER}{text}"))
    }
}

/// Checks that no two devices say the same.
fn differ<T: PartialEq + ToString>(
    key: &'static str,
    what: &'static str,
    values: impl Iterator<Item = T> + Clone,
) -> Result<(), Error> {
    let mut rest = values.clone();
    for value in values {
        rest.next();
        if rest.clone().any(|other| other == value) {
            return Err(Error::Twice { key, what, value: value.to_string() });
        }
    }
    Ok(())
}

fn memory(raw: RawMemory) -> Result<MemorySpec, Error> {
    let size = raw.size.unwrap_or(MemorySize::DEFAULT);
    let huge = raw.huge.unwrap_or_default();
    let page = match huge {
        HugePages::Default | HugePages::Thp => MemorySize::PAGE,
        HugePages::Size2M => MemorySize::PAGE_2M,
        HugePages::Size1G => MemorySize::PAGE_1G,
    };
    if !size.bytes().is_multiple_of(page.bytes()) {
        return Err(Error::PartialHugePage { size, page });
    }
    Ok(MemorySpec {
        size: size.bytes(),
        huge,
        prealloc: raw.prealloc.unwrap_or(false),
        shared: raw.shared.unwrap_or(false),
    })
}
