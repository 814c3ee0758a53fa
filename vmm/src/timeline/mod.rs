//! The boot timeline: when what happened, from the parent's stamp (or our own first instruction) to the end.
//!
//! Two kinds of events are stamped: [`Step`]s of the VMM, each at most once, and marks that the guest writes to
//! [`abi::ports::TIMELINE`]. Recording takes no lock and allocates nothing: a slot of atomics for each step, and
//! a bounded number of slots for marks in the order of their arrival. A [`Report`] is made of them at the end.

mod clock;
mod report;
mod text;

#[cfg(test)]
mod tests;

use abi::timeline::Mark;
pub use clock::{Clock, HostClock, Stamp};
pub use report::{Event, Report, Row};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub use text::Style;

/// How many of the guest's marks are kept; a report says how many came after them.
pub const MAX_MARKS: usize = 64;

/// A moment in the life of the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Flags and files have become a specification.
    ConfigRead,
    /// `/dev/kvm` is open and the VM exists.
    KvmOpened,
    /// Guest RAM is mapped and known to KVM.
    MemoryMapped,
    /// Kernel, initrd and all else that the guest starts from are in place.
    KernelLoaded {
        /// Size of kernel and initrd.
        bytes: u64,
    },
    /// All vCPUs can run.
    VcpusReady,
    /// The boot vCPU is about to enter `KVM_RUN` for the first time; stamped on its thread.
    FirstRun,
    /// It is known how the guest ended; best stamped on the thread that saw it.
    GuestStopped,
    /// All of KVM's objects are closed and guest RAM is unmapped.
    VmDestroyed,
}

impl Step {
    const COUNT: usize = 8;

    fn slot(self) -> usize {
        match self {
            Self::ConfigRead => 0,
            Self::KvmOpened => 1,
            Self::MemoryMapped => 2,
            Self::KernelLoaded { .. } => 3,
            Self::VcpusReady => 4,
            Self::FirstRun => 5,
            Self::GuestStopped => 6,
            Self::VmDestroyed => 7,
        }
    }

    fn from_slot(slot: usize, bytes: u64) -> Self {
        [
            Self::ConfigRead,
            Self::KvmOpened,
            Self::MemoryMapped,
            Self::KernelLoaded { bytes },
            Self::VcpusReady,
            Self::FirstRun,
            Self::GuestStopped,
            Self::VmDestroyed,
        ][slot]
    }
}

/// Collects stamps, from any thread.
#[derive(Debug)]
pub struct Timeline<C = HostClock> {
    clock: C,
    start: Stamp,
    /// The parent's stamp, when it gave one.
    parent: Option<u64>,
    on: bool,
    steps: [Slot; Step::COUNT],
    loaded_bytes: AtomicU64,
    marks: [(AtomicU8, Slot); MAX_MARKS],
    /// How many marks came, kept or not.
    marks_seen: AtomicUsize,
}

impl Timeline {
    /// A timeline by the host's clock that begins now.
    #[must_use]
    pub fn begin(parent: Option<u64>, on: bool) -> Self {
        Self::new(HostClock, HostClock.stamp(), parent, on)
    }
}

impl<C: Clock> Timeline<C> {
    /// A timeline that began at `start`, a stamp taken as the process's first act, or at the parent's stamp
    /// (nanoseconds of `CLOCK_MONOTONIC`; one that is later than `start` counts as equal to it). One that is
    /// not `on` keeps nothing but its origin.
    pub fn new(clock: C, start: Stamp, parent: Option<u64>, on: bool) -> Self {
        Self {
            clock,
            start,
            parent: parent.map(|parent| parent.min(start.at)),
            on,
            steps: Default::default(),
            loaded_bytes: AtomicU64::new(0),
            marks: std::array::from_fn(|_| Default::default()),
            marks_seen: AtomicUsize::new(0),
        }
    }

    fn origin(&self) -> u64 {
        self.parent.unwrap_or(self.start.at)
    }

    /// Stamps a step.
    pub fn step(&self, step: Step) {
        if !self.on {
            return;
        }
        if let Step::KernelLoaded { bytes } = step {
            self.loaded_bytes.store(bytes, Ordering::Relaxed);
        }
        self.steps[step.slot()].set(self.clock.stamp());
    }

    /// Stamps a guest's mark; to be called on the thread of the vCPU that wrote it.
    pub fn mark(&self, mark: Mark) {
        if !self.on {
            return;
        }
        let index = self.marks_seen.fetch_add(1, Ordering::Relaxed);
        if let Some((code, slot)) = self.marks.get(index) {
            code.store(mark.0, Ordering::Relaxed);
            slot.set(self.clock.stamp());
        }
    }

    /// Microseconds since the origin, modulo 2^32: what a read of the timeline port gives.
    pub fn elapsed_us(&self) -> u32 {
        (self.clock.now().saturating_sub(self.origin()) / 1000) as u32
    }

    /// What was recorded, up to now.
    pub fn report(&self) -> Report {
        let bytes = self.loaded_bytes.load(Ordering::Relaxed);
        let steps = self
            .steps
            .iter()
            .enumerate()
            .filter_map(|(slot, stamp)| Some((Event::Step(Step::from_slot(slot, bytes)), stamp.get()?)));
        let marks = self.marks.iter().filter_map(|(code, stamp)| {
            let stamp = stamp.get()?;
            Some((Event::Mark(Mark(code.load(Ordering::Relaxed))), stamp))
        });
        Report::new(
            (self.parent, self.start),
            steps.chain(marks).collect(),
            self.clock.now(),
            self.marks_seen.load(Ordering::Relaxed).saturating_sub(MAX_MARKS),
        )
    }
}

/// A stamp that one thread writes and others may read; empty while its time is 0.
#[derive(Debug, Default)]
struct Slot {
    at: AtomicU64,
    cpu: AtomicU64,
    thread: AtomicUsize,
}

impl Slot {
    fn set(&self, stamp: Stamp) {
        self.cpu.store(stamp.cpu, Ordering::Relaxed);
        self.thread.store(stamp.thread, Ordering::Relaxed);
        // Publishes the rest.
        self.at.store(stamp.at, Ordering::Release);
    }

    fn get(&self) -> Option<Stamp> {
        let at = self.at.load(Ordering::Acquire);
        (at != 0).then(|| Stamp {
            at,
            cpu: self.cpu.load(Ordering::Relaxed),
            thread: self.thread.load(Ordering::Relaxed),
        })
    }
}
