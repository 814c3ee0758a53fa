//! The network device (section 5.1): frames between the driver's rings and a tap, or a program such as passt.
//!
//! Frames go straight between guest memory and a tap. The device looks into none of them, and filters none: what the
//! host's side sends, the guest gets.

mod backend;
mod control;
#[cfg(any(test, feature = "testing"))]
mod loopback;
mod receive;
mod stream;
mod tap;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use vmm_sys_util::epoll::EventSet;

use super::{Chain, Context, DeviceKind, Error, Rings, VirtioDevice, read_bytes};
use crate::devices::rate::{RateLevels, RateLimiter};
use crate::state::{self, Saved};
pub use backend::Backend;
use backend::{HEADER, Outcome};
#[cfg(any(test, feature = "testing"))]
pub use loopback::{Cable, Loopback};
use receive::Receiver;
pub use stream::Stream;
pub use tap::Tap;

/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 256;
/// Tokens of descriptors; those of the backend have the numbers of their pairs of queues.
const RECEIVE_TIMER: u32 = 1 << 16;
const TRANSMIT_TIMER: u32 = RECEIVE_TIMER + 1;
const RECONNECT_TIMER: u32 = RECEIVE_TIMER + 2;
/// How often it is tried whether somebody is there again.
const RECONNECT: Duration = Duration::from_millis(500);

/// What a card is to be like.
#[derive(Debug, Default)]
pub struct NetOptions {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The MTU that the guest is told of.
    pub mtu: Option<u16>,
    /// What limits frames to the guest.
    pub receive: Option<RateLimiter>,
    /// What limits frames of the guest.
    pub transmit: Option<RateLimiter>,
}

/// The device.
pub struct Net {
    backend: Box<dyn Backend>,
    mac: [u8; 6],
    mtu: Option<u16>,
    queues: Vec<u16>,
    link_up: bool,
    /// Pairs of queues that the driver uses.
    pairs: u16,
    /// Features of frames for the guest, where the driver has chosen by command.
    offloads: Option<u64>,
    receivers: Vec<Receiver>,
    limit_receive: Option<RateLimiter>,
    limit_transmit: Option<RateLimiter>,
    /// Runs while nobody is there.
    timer: OwnedFd,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NetState {
    mac: [u8; 6],
    pairs: u16,
    offloads: Option<u64>,
    receive: Option<RateLevels>,
    transmit: Option<RateLevels>,
}

impl Saved for NetState {
    const NAME: &'static str = "network device";
    const VERSION: u16 = 1;
}

fn receive_queue(pair: u16) -> u16 {
    2 * pair
}

fn transmit_queue(pair: u16) -> u16 {
    2 * pair + 1
}

impl Net {
    /// A card with `backend` on the host's side.
    pub fn new(backend: Box<dyn Backend>, options: NetOptions) -> io::Result<Self> {
        let NetOptions { mac, mtu, receive, transmit } = options;
        let pairs = backend.pairs();
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self {
            mac,
            mtu,
            queues: vec![QUEUE_SIZE; usize::from(2 * pairs) + 1],
            link_up: true,
            pairs: 1,
            offloads: None,
            receivers: (0..pairs).map(|_| Receiver::default()).collect(),
            limit_receive: receive,
            limit_transmit: transmit,
            timer,
            backend,
        })
    }

    /// The last queue takes commands.
    fn control_queue(&self) -> u16 {
        2 * self.backend.pairs()
    }

    /// Has the backend do what the driver takes and wants.
    fn configure(&mut self, rings: &Rings<'_>) -> bool {
        let features = self.offloads.unwrap_or(rings.features());
        self.backend.configure(features, self.pairs).is_ok()
    }

    /// Watches the descriptors of all pairs of queues.
    fn watch_all(&mut self, cx: &mut Context<'_>) {
        for pair in 0..self.backend.pairs() {
            self.receivers[usize::from(pair)].masked = false;
            self.watch(cx, pair);
        }
    }

    fn watch(&self, cx: &mut Context<'_>, pair: u16) {
        let masked = self.receivers[usize::from(pair)].masked;
        let events = match (self.backend.is_direct(), masked) {
            (true, false) => EventSet::IN,
            // A tap never has any; with no event at all, the kernel would not tell that it is gone.
            (true, true) => EventSet::PRIORITY,
            (false, _) => EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED,
        };
        if let Some(fd) = self.backend.descriptor(pair) {
            // Fails when the host has no memory left; then the card stays still.
            let _ = cx.watch(&fd, pair.into(), events);
        }
    }

    /// Nobody is there any more: the link goes down until somebody is.
    fn disconnect(&mut self, cx: &mut Context<'_>) {
        for pair in 0..self.backend.pairs() {
            if let Some(fd) = self.backend.descriptor(pair) {
                cx.unwatch(&fd);
            }
        }
        self.backend.hang_up();
        self.link_up = false;
        self.set_timer(RECONNECT);
        cx.config_changed();
    }

    fn reconnect(&mut self, cx: &mut Context<'_>) {
        // Nothing to read when it has not expired.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        if self.link_up || !self.backend.reconnect() || !self.configure(cx) {
            return;
        }
        self.link_up = true;
        self.set_timer(Duration::ZERO);
        self.watch_all(cx);
        cx.config_changed();
    }

    /// Sets the timer to run, or by zero to rest.
    fn set_timer(&self, period: Duration) {
        let period = Timespec { tv_sec: 0, tv_nsec: period.subsec_nanos().into() };
        let timer = Itimerspec { it_interval: period, it_value: period };
        // Fails only for times and descriptors that are none.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer);
    }

    /// Sends what the driver has made available.
    fn transmit(&mut self, cx: &mut Context<'_>, pair: u16) -> Result<(), Error> {
        let queue = transmit_queue(pair);
        let mut left = QUEUE_SIZE;
        let mut chain = Chain::default();
        while left > 0 {
            if self.limit_transmit.as_mut().is_some_and(|limit| !limit.admits()) {
                break;
            }
            chain.clear();
            if !cx.pop_into(queue, &mut chain)? {
                if cx.listen(queue)? {
                    continue;
                }
                break;
            }
            let len = super::chain::total(&chain.readable);
            if len < HEADER as u64 {
                return Err(Error::Request("a frame of the network device is shorter than its header"));
            }
            // Without somebody there, frames are lost as they are with a cable out.
            if self.link_up {
                match self.backend.send(pair, &chain.readable) {
                    Outcome::Done(()) => {}
                    Outcome::Wait => {
                        cx.undo_pop(queue);
                        break;
                    }
                    Outcome::Gone => self.disconnect(cx),
                }
            }
            if let Some(limit) = &mut self.limit_transmit {
                limit.charge(len - HEADER as u64);
            }
            cx.push(queue, chain.head, 0)?;
            left -= 1;
        }
        if left < QUEUE_SIZE
            && let Some(receiver) = self.receivers.get_mut(usize::from(pair))
        {
            receiver.answer = true;
        }
        if left == 0 {
            cx.again(queue);
        }
        cx.notify(queue)
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        let own = [
            (VIRTIO_NET_F_MAC, true),
            (VIRTIO_NET_F_STATUS, true),
            (VIRTIO_NET_F_MRG_RXBUF, true),
            (VIRTIO_NET_F_CTRL_VQ, true),
            (VIRTIO_NET_F_CTRL_MAC_ADDR, true),
            (VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, self.backend.features() != 0),
            (VIRTIO_NET_F_MTU, self.mtu.is_some()),
            (VIRTIO_NET_F_MQ, self.backend.pairs() > 1),
        ];
        let own = own.iter().filter(|(_, there)| *there);
        own.fold(self.backend.features(), |all, (feature, _)| all | 1 << feature)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    /// `struct virtio_net_config` (5.1.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let status = if self.link_up { VIRTIO_NET_S_LINK_UP as u16 } else { 0 };
        let mut config = self.mac.to_vec();
        for field in [status, self.backend.pairs(), self.mtu.unwrap_or(0)] {
            config.extend(field.to_le_bytes());
        }
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.configure(cx);
        if self.link_up {
            self.watch_all(cx);
        }
        let timers = [
            (self.limit_receive.as_ref().map(AsRawFd::as_raw_fd), RECEIVE_TIMER),
            (self.limit_transmit.as_ref().map(AsRawFd::as_raw_fd), TRANSMIT_TIMER),
            (Some(self.timer.as_raw_fd()), RECONNECT_TIMER),
        ];
        for (timer, token) in timers {
            if let Some(timer) = timer {
                let _ = cx.watch(&timer, token, EventSet::IN);
            }
        }
        Ok(())
    }

    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        if queue == self.control_queue() {
            self.control(cx, queue)
        } else if queue.is_multiple_of(2) {
            self.receive(cx, queue / 2)
        } else {
            self.transmit(cx, queue / 2)
        }
    }

    fn process_event(&mut self, cx: &mut Context<'_>, token: u32, events: EventSet) -> Result<(), Error> {
        let every = 0..self.pairs;
        match token {
            RECONNECT_TIMER => self.reconnect(cx),
            RECEIVE_TIMER => {
                self.limit_receive.iter().for_each(RateLimiter::acknowledge);
                every.clone().try_for_each(|pair| self.receive(cx, pair))?;
            }
            TRANSMIT_TIMER => {
                self.limit_transmit.iter().for_each(RateLimiter::acknowledge);
                every.clone().try_for_each(|pair| self.transmit(cx, pair))?;
            }
            _ => {
                let pair = token as u16;
                if events.intersects(EventSet::HANG_UP | EventSet::ERROR) && self.link_up {
                    self.disconnect(cx);
                }
                if let Some(receiver) = self.receivers.get_mut(usize::from(pair)) {
                    receiver.readable = true;
                    self.receive(cx, pair)?;
                }
                if events.contains(EventSet::OUT) {
                    if self.link_up && self.backend.flush() == Outcome::Gone {
                        self.disconnect(cx);
                    }
                    self.transmit(cx, pair)?;
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        (self.pairs, self.offloads) = (1, None);
        self.receivers.iter_mut().for_each(|receiver| *receiver = Receiver::default());
    }

    fn save(&self) -> Vec<u8> {
        let Self {
            backend: _,
            mac,
            mtu: _,
            queues: _,
            link_up: _,
            pairs,
            offloads,
            receivers: _,
            limit_receive,
            limit_transmit,
            timer: _,
        } = self;
        state::encode(&NetState {
            mac: *mac,
            pairs: *pairs,
            offloads: *offloads,
            receive: limit_receive.as_ref().map(RateLimiter::save),
            transmit: limit_transmit.as_ref().map(RateLimiter::save),
        })
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error> {
        let NetState { mac, pairs, offloads, receive, transmit } = state::decode(saved)?;
        if pairs == 0 || pairs > self.backend.pairs() {
            return Err(state::Error::Damaged { name: NetState::NAME });
        }
        (self.mac, self.pairs, self.offloads) = (mac, pairs, offloads);
        for (limit, levels) in [(&mut self.limit_receive, receive), (&mut self.limit_transmit, transmit)] {
            if let (Some(limit), Some(levels)) = (limit, levels) {
                limit.restore(&levels);
            }
        }
        Ok(())
    }
}
