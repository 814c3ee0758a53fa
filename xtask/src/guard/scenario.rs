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
    pub extra: Extra,
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
}

/// Devices and the like: a name, and flags for `jiffy run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Last part of a scenario's name; empty for a plain machine.
    pub name: &'static str,
    /// Flags; `{NAME}` is a file in the lab.
    pub flags: &'static [&'static str],
}

/// No devices but those that every machine has.
pub const PLAIN: Extra = Extra { name: "", flags: &[] };

/// Devices whose cost at a boot is watched; a new one gets its flag here.
const EXTRAS: &[Extra] = &[
    Extra { name: "mmio", flags: &["--rng", "--disk", "path={disk}", "--vsock", "cid=3,path=/tmp/mmio"] },
    Extra {
        name: "pci",
        flags: &["--transport", "pci", "--rng", "--disk", "path={disk}", "--vsock", "cid=3,path=/tmp/pci"],
    },
];

/// Sizes of RAM, in MiB: small, usual, and one with a part above 4 GiB.
const SIZES: [u32; 3] = [128, 512, 4096];

impl Scenario {
    /// All scenarios, in the order in which they are run and written down.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let plain =
            |guest, entry, memory_mib, always| Self { guest, entry, memory_mib, extra: PLAIN, always };
        let mut all: Vec<_> =
            SIZES.iter().map(|&mib| plain(Guest::Mark, Entry::Pvh, mib, mib != 512)).collect();
        for guest in [Guest::Fast, Guest::Debian] {
            for entry in [Entry::Linux64, Entry::Pvh, Entry::Bzimage] {
                all.extend(
                    SIZES.iter().map(|&mib| plain(guest, entry, mib, is_of_the_dozen(guest, entry, mib))),
                );
            }
        }
        all.extend(
            EXTRAS.iter().map(|&extra| Self { extra, ..plain(Guest::Fast, Entry::Linux64, 512, true) }),
        );
        all
    }

    /// Its name, unique among all.
    #[must_use]
    pub fn name(&self) -> String {
        let dash = if self.extra.name.is_empty() { "" } else { "-" };
        let size = match self.memory_mib {
            mib if mib.is_multiple_of(1024) => format!("{}G", mib / 1024),
            mib => format!("{mib}M"),
        };
        format!("{}-{}-{size}{dash}{}", self.guest, self.entry, self.extra.name)
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
        for name in ["mark-pvh-128M", "fast-linux64-512M", "debian-bzimage-4G", "fast-linux64-512M-pci"] {
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
