//! `jiffy-init greet`: something to see at the end of a first boot.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

use rustix::system::{sysinfo, uname};
use rustix::thread::sched_getaffinity;

use crate::ports::Ports;
use crate::sys;

const NAME: &str = r"
     _ _  __  __
    (_|_)/ _|/ _|_  _
    | | |  _|  _| || |
   _/ |_|_| |_|  \_, |
  |__/           |__/
";

/// What this machine is, and how long it took to get here.
#[derive(Debug)]
pub struct Greeting {
    kernel: String,
    cpus: u32,
    memory: u64,
    free: u64,
    started: Started,
}

/// How long ago the machine was started.
#[derive(Debug)]
enum Started {
    /// When `jiffy` was.
    Jiffy(Duration),
    /// When the kernel's clock was.
    Kernel(Duration),
}

impl Greeting {
    /// Asks the kernel, and the machine if it is one of ours.
    pub fn gather(ports: Option<&Ports>) -> Self {
        let info = sysinfo();
        let started = match ports {
            Some(ports) => Started::Jiffy(Duration::from_micros(ports.elapsed_us().into())),
            None => Started::Kernel(sys::since_boot().unwrap_or_default()),
        };
        let unit = u64::from(info.mem_unit);
        Self {
            kernel: uname().release().to_string_lossy().into_owned(),
            cpus: sched_getaffinity(None).map_or(1, |cpus| cpus.count()),
            memory: info.totalram * unit,
            free: info.freeram * unit,
            started,
        }
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{NAME}")?;
        writeln!(f, "  kernel   Linux {}", self.kernel)?;
        writeln!(f, "  CPUs     {}", self.cpus)?;
        writeln!(f, "  memory   {} MiB, {} MiB of it free", self.memory >> 20, self.free >> 20)?;
        let (time, since) = match self.started {
            Started::Jiffy(time) => (time, "jiffy was started"),
            Started::Kernel(time) => (time, "the kernel was started"),
        };
        let us = time.as_micros() as u64;
        writeln!(f, "  here     {}.{} ms after {since}\n", us / 1000, us % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned() {
        let greeting = Greeting {
            kernel: "6.1.0-56-cloud-amd64".into(),
            cpus: 2,
            memory: 489 << 20,
            free: (461 << 20) + 5,
            started: Started::Jiffy(Duration::from_micros(123_987)),
        };
        let text = std::format!("{greeting}");
        assert!(text.ends_with(
            "\n\n  kernel   Linux 6.1.0-56-cloud-amd64\n  CPUs     2\n  memory   489 MiB, 461 MiB of it free\n  \
             here     123.9 ms after jiffy was started\n\n"
        ));
        assert!(text.lines().all(|line| line.len() <= 60 && line.trim_end() == line));
    }

    #[test]
    fn gathers_what_is_true_of_this_machine() {
        let greeting = Greeting::gather(None);
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
        assert_eq!(greeting.kernel, release.trim_end());
        assert!(greeting.cpus >= 1 && greeting.memory > greeting.free && greeting.free > 0);
    }
}
