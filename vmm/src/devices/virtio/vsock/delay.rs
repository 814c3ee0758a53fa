//! What the driver need not hear at once: that small packets of its have been taken. Mostly an answer is about to
//! interrupt it anyway, or more packets follow. Large ones it has to hear of: Linux does not wake who waits for room in
//! a stream while half of the socket's memory is in packets that have not come back.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Result;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vmm_sys_util::epoll::EventSet;

use super::TIMER;
use crate::devices::virtio::Context;

/// How long the driver waits at most: a few round trips.
const DELAY: Duration = Duration::from_millis(1);

/// Bytes of packets that it may wait to hear of.
const SMALL: u64 = 16 << 10;

/// A timer that is made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Delay {
    timer: Option<OwnedFd>,
    running: bool,
    /// Bytes of packets that were taken since the driver was told.
    bytes: u64,
}

impl Delay {
    /// A packet of so many bytes was taken.
    pub(super) fn taken(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The driver is told.
    pub(super) fn told(&mut self) {
        self.bytes = 0;
    }

    /// Whether the driver may hear of what was taken when the timer expires, which runs then. A host may have no
    /// descriptor left for it.
    pub(super) fn start(&mut self, cx: &mut Context<'_>) -> bool {
        self.bytes < SMALL && self.run(cx)
    }

    /// Whether the timer runs, or could be started.
    pub(super) fn run(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.running {
            self.running = self.set(cx).is_some();
        }
        self.running
    }

    fn set(&mut self, cx: &mut Context<'_>) -> Option<()> {
        if self.timer.is_none() {
            let timer = new_timer().ok()?;
            // Edge-triggered, so that nobody has to read how often it has expired.
            cx.watch(&timer, TIMER, EventSet::IN | EventSet::EDGE_TRIGGERED).ok()?;
            self.timer = Some(timer);
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: zero,
            it_value: Timespec { tv_nsec: DELAY.subsec_nanos().into(), ..zero },
        };
        timerfd_settime(self.timer.as_ref()?, TimerfdTimerFlags::empty(), &once).ok()?;
        Some(())
    }

    /// The timer has expired, and the driver is told.
    pub(super) fn expired(&mut self) {
        self.running = false;
        self.told();
    }
}

fn new_timer() -> Result<OwnedFd> {
    timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
}
