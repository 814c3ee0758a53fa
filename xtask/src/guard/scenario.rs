//! What is started: kernels, ways in, sizes.

use std::fmt;

/// One way to start a VM. Its name is made of what it is: `fast-linux64-128M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What is booted.
    pub guest: Guest,
    /// By which way in.
    pub entry: Entry,
    /// RAM of the guest, in MiB.
    pub memory_mib: u32,
    /// What it has beside RAM and the console.
    pub devices: Option<Devices>,
    /// Whether it is of the dozen that every change has to pass.
    pub always: bool,
}

/// What is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// Six instructions: a mark and power-off.
    Mark,
    /// Jiffy's own kernel, and init.
    Fast,
    /// Debian's kernel, and init.
    Debian,
}

/// How the guest is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// An ELF file, by Linux's 64-bit protocol.
    Linux64,
    /// An ELF file, by PVH.
    Pvh,
    /// A `bzImage` whose kernel jiffy has unpacked before.
    Bzimage,
    /// An ELF file, by jiffy's firmware from the reset vector.
    Firmware,
}

/// Virtio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    transport: &'static str,
    /// The only one, by its name; all if there is no such name.
    only: Option<&'static str>,
}

/// Devices whose cost at a boot is watched, and their flags for `jiffy run`; `{NAME}` is a file in the lab. A new one gets
/// its line here.
const DEVICES: [(&str, &[&str]); 5] = [
    ("rng", &["--rng"]),
    ("disk", &["--disk", "path={disk}"]),
    ("pmem", &["--pmem", "path={pmem}"]),
    ("net", &["--net", "tap=tap0"]),
    ("vsock", &["--vsock", "cid=3,path=/tmp/vsock"]),
];
const TRANSPORTS: [&str; 2] = ["mmio", "pci"];

/// The flags of all of them.
pub(super) fn device_flags() -> impl Iterator<Item = &'static str> {
    DEVICES.iter().flat_map(|(_, flags)| flags.iter().copied())
}

/// Sizes of RAM, in MiB: small, usual, and one with a part above 4 GiB.
const SIZES: [u32; 3] = [128, 512, 4096];

impl Scenario {
    /// All scenarios, in the order in which they are run and written down.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let plain =
            |guest, entry, memory_mib, always| Self { guest, entry, memory_mib, devices: None, always };
        let mut all: Vec<_> =
            SIZES.iter().map(|&mib| plain(Guest::Mark, Entry::Pvh, mib, mib != 512)).collect();
        all.push(plain(Guest::Mark, Entry::Firmware, 128, true));
        for guest in [Guest::Fast, Guest::Debian] {
            for entry in [Entry::Linux64, Entry::Pvh, Entry::Bzimage] {
                all.extend(
                    SIZES.iter().map(|&mib| plain(guest, entry, mib, is_of_the_dozen(guest, entry, mib))),
                );
            }
            all.push(plain(guest, Entry::Firmware, 512, false));
        }
        // All devices together, and each by itself.
        let boot = |guest, always| plain(guest, Entry::Linux64, 512, always);
        for transport in TRANSPORTS {
            let with = |only| Some(Devices { transport, only });
            all.push(Self { devices: with(None), ..boot(Guest::Fast, true) });
            all.push(Self { devices: with(None), ..boot(Guest::Debian, false) });
            all.extend(
                DEVICES
                    .iter()
                    .map(|(name, _)| Self { devices: with(Some(name)), ..boot(Guest::Fast, false) }),
            );
        }
        all
    }

    /// Whether its kernel takes in RAM beside the boot: `fast` puts that off until it is needed, and persistent memory is
    /// plugged in by a thread of its own, which needs all of it.
    #[must_use]
    pub fn takes_in_ram_beside(&self) -> bool {
        self.guest == Guest::Fast && self.devices.is_some_and(|devices| devices.has("pmem"))
    }

    /// Its name, unique among all.
    #[must_use]
    pub fn name(&self) -> String {
        let size = match self.memory_mib {
            mib if mib.is_multiple_of(1024) => format!("{}G", mib / 1024),
            mib => format!("{mib}M"),
        };
        let devices = self.devices.map(|devices| devices.to_string()).unwrap_or_default();
        format!("{}-{}-{size}{devices}", self.guest, self.entry)
    }
}

impl Devices {
    /// Whether this one is among them.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        self.only.is_none_or(|only| only == name)
    }

    /// Flags for `jiffy run`.
    #[must_use]
    pub fn flags(self) -> Vec<&'static str> {
        let wanted = DEVICES.iter().filter(|(name, _)| self.has(name));
        let flags = wanted.flat_map(|(_, flags)| flags.iter().copied());
        ["--transport", self.transport].into_iter().chain(flags).collect()
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-{}", self.transport)?;
        self.only.map_or(Ok(()), |only| write!(f, "-{only}"))
    }
}

/// Each kernel by each way in at its usual size, and all sizes by one way in.
fn is_of_the_dozen(guest: Guest, entry: Entry, mib: u32) -> bool {
    match (guest, entry) {
        (_, Entry::Linux64) => true,
        _ => mib == 512,
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mark => "mark",
            Self::Fast => "fast",
            Self::Debian => "debian",
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux64 => "linux64",
            Self::Pvh => "pvh",
            Self::Bzimage => "bzimage",
            Self::Firmware => "firmware",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_what_it_is() {
        let all = Scenario::all();
        let mut names: Vec<String> = all.iter().map(Scenario::name).collect();
        for name in
            ["mark-pvh-128M", "debian-bzimage-4G", "fast-linux64-512M-pci", "fast-linux64-512M-mmio-net"]
        {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_chosen_ones_are_few_and_of_all_kinds() {
        let chosen: Vec<_> = Scenario::all().into_iter().filter(|scenario| scenario.always).collect();
        assert!((12..=16).contains(&chosen.len()), "{}", chosen.len());
        for guest in [Guest::Fast, Guest::Debian] {
            for entry in [Entry::Linux64, Entry::Pvh, Entry::Bzimage] {
                assert!(chosen.iter().any(|scenario| (scenario.guest, scenario.entry) == (guest, entry)));
            }
        }
        assert!(SIZES.iter().all(|&mib| chosen.iter().any(|scenario| scenario.memory_mib == mib)));
    }
}
