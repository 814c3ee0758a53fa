//! The socket device (section 5.10): streams between guest and host, on the host's side Unix sockets.
//!
//! ```text
//! guest ─ packets ─▶ Muxer (counts only) ─ effects ─▶ Sockets (descriptors, bytes that wait) ─▶ host programs
//!       ◀─ packets ─ headers by Muxer, data straight from a socket into the driver's buffers ◀─
//! ```

mod delay;
mod endpoint;
mod habit;
mod muxer;
mod packet;
#[cfg(any(test, feature = "testing"))]
mod peers;
mod receive;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;
use zerocopy::IntoBytes;

use super::chain::total;
use super::scatter::{copy_in, copy_out};
use super::{Chain, Context, DeviceKind, Error, Rings, VirtioDevice, read_bytes};
use crate::state::{self, Saved};
use delay::Delay;
pub use endpoint::{Endpoint, Peers};
use endpoint::{Request, read_request};
use habit::Habit;
use muxer::{Effect, Key, Muxer};
use packet::{EVENT_TRANSPORT_RESET, Header, op};
#[cfg(any(test, feature = "testing"))]
pub use peers::FakePeers;
use socket::{Sockets, Written};

/// Number of the queue by which the guest receives.
pub const RECEIVE: u16 = 0;
/// Number of the queue by which it sends.
pub const TRANSMIT: u16 = 1;
/// Number of the queue of events.
pub const EVENT: u16 = 2;

/// Packets on their way; the most that are taken or given before others have their turn.
const QUEUE_SIZE: u16 = 256;
/// Descriptors of a queue into which a driver puts several packets before it needs to hear.
const ROOMY: u16 = 16;
/// What the listening socket is watched by; connections have their places in [`Sockets`].
const LISTENER: u32 = (1 << 31) - 1;
/// What the timer of [`Delay`] is watched by.
const TIMER: u32 = LISTENER - 1;
/// Connections that are accepted before others have their turn.
const ACCEPTS: usize = 16;

/// The device.
pub struct Vsock {
    guest_cid: u64,
    peers: Box<dyn Peers>,
    muxer: Muxer,
    sockets: Sockets,
    delay: Delay,
    habit: Habit,
    /// The guest has to hear that all its streams are gone.
    lost: bool,
}

/// Streams do not outlive their process, so there is little to save.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VsockState {
    guest_cid: u64,
}

impl Saved for VsockState {
    const NAME: &'static str = "socket device";
    const VERSION: u16 = 1;
}

impl Vsock {
    /// The device of the guest with this context identifier, reached by `peers`.
    #[must_use]
    pub fn new(guest_cid: u32, peers: Box<dyn Peers>) -> Self {
        let guest_cid = guest_cid.into();
        let muxer = Muxer::new(guest_cid);
        Self {
            guest_cid,
            peers,
            muxer,
            sockets: Sockets::default(),
            delay: Delay::default(),
            habit: Habit::default(),
            lost: false,
        }
    }

    /// Takes the packets that the driver sends.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut left = QUEUE_SIZE;
        let mut chain = Chain::default();
        while left > 0 {
            chain.readable.clear();
            chain.writable.clear();
            if cx.pop_into(TRANSMIT, &mut chain)? {
                let of_use = self.take(cx, &chain)?;
                self.habit.packet(of_use);
                self.delay.taken(total(&chain.readable));
                cx.push(TRANSMIT, chain.head, 0)?;
                left -= 1;
            } else {
                let busy = left < QUEUE_SIZE || self.habit.goes_on();
                // A queue that is soon full keeps its driver waiting.
                let roomy = cx.size(TRANSMIT) >= ROOMY;
                let spared = busy && roomy && self.habit.holds() && self.delay.run(cx);
                if !cx.listen_beyond(TRANSMIT, spared.into())? {
                    self.habit.rely(spared);
                    break;
                }
            }
        }
        if left == 0 {
            cx.again(TRANSMIT);
        }
        // While the driver has most of its queue left, it need not hear at once.
        let untold = cx.untold(TRANSMIT);
        if untold == 0 || untold < cx.size(TRANSMIT) / 4 && self.delay.start(cx) {
            return Ok(());
        }
        self.delay.told();
        cx.notify(TRANSMIT)
    }

    /// Takes a packet of the driver; whether something comes of it.
    fn take(&mut self, cx: &mut Context<'_>, chain: &Chain<'_>) -> Result<bool, Error> {
        let mut header = Header::default();
        let bytes = header.as_mut_bytes();
        if copy_out(&chain.readable, 0, bytes) < Header::LEN {
            return Err(Error::Request("a packet of the socket device is shorter than its header"));
        }
        let len = header.len.get() as usize;
        if (total(&chain.readable) - Header::LEN as u64) < len as u64 {
            return Err(Error::Request("a packet of the socket device is shorter than it says"));
        }
        match self.muxer.receive(&header) {
            Effect::None => {}
            Effect::Connect(key) => self.connect(cx, key),
            Effect::Connected(key) => self.sockets.greet(key),
            Effect::Data(key) => {
                let outcome = self.sockets.write(key, &chain.readable, len);
                self.settle(cx, key, outcome);
            }
            Effect::Shutdown(key, flags) => self.sockets.shut(key, flags),
            Effect::Closed(key) => self.close(cx, key),
        }
        let woken = self.sockets.wake(Key::of_guest(&header));
        Ok(woken || header.op != op::CREDIT_UPDATE)
    }

    /// The guest wants to reach a port of the host.
    fn connect(&mut self, cx: &mut Context<'_>, key: Key) {
        match self.peers.connect(key.host).and_then(|fd| self.sockets.add(cx, fd, Some(key))) {
            Ok(()) => self.muxer.accept(key),
            Err(_) => self.muxer.abort(key),
        }
    }

    /// Does what came of writing to a socket: bytes that have gone on, and whether nobody is there to receive more.
    fn settle(&mut self, cx: &mut Context<'_>, key: Key, outcome: Written) {
        if outcome.gone {
            self.muxer.shut(key, packet::SHUT_RECEIVE);
        }
        if let Effect::Closed(key) = self.muxer.forwarded(key, outcome.len) {
            return self.close(cx, key);
        }
        self.sockets.watch(cx, key);
    }

    fn close(&mut self, cx: &mut Context<'_>, key: Key) {
        if let Some(place) = self.sockets.find(key) {
            self.sockets.remove(cx, place);
        }
    }

    /// Host programs have connected to the endpoint.
    fn accept(&mut self, cx: &mut Context<'_>) {
        for _ in 0..ACCEPTS {
            // Level-triggered: what is left comes again. A host without descriptors left cannot do better.
            let Ok(fd) = self.peers.accept() else { return };
            let _ = self.sockets.add(cx, fd, None);
        }
    }

    /// A host program has said to which port it wants to be connected.
    fn shake_hands(&mut self, cx: &mut Context<'_>, place: u32) {
        let Some(fd) = self.sockets.undecided(place) else { return };
        match read_request(fd) {
            Request::Unfinished => {}
            Request::Connect(port) => match self.muxer.open(port) {
                Some(key) => self.sockets.decide(place, key),
                None => self.sockets.remove(cx, place),
            },
            Request::Invalid => self.sockets.remove(cx, place),
        }
    }

    /// Something has happened to the socket of a stream.
    fn stir(&mut self, cx: &mut Context<'_>, place: u32, key: Key, events: EventSet) {
        if !self.muxer.is_open(key) {
            // The host program does not wait for the guest's answer.
            if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
                self.muxer.abort(key);
                return self.sockets.remove(cx, place);
            }
        } else if events.intersects(EventSet::OUT | EventSet::HANG_UP | EventSet::ERROR) {
            let outcome = self.sockets.flush(key);
            self.settle(cx, key, outcome);
        }
        if let Some(flags) = self.sockets.note(place, events) {
            self.muxer.shut(key, flags);
        }
    }

    /// Tells the guest that its streams are gone, when it has to know and has a buffer for it.
    fn tell_lost(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while self.lost {
            let Some(chain) = cx.pop(EVENT)? else {
                if cx.listen(EVENT)? {
                    continue;
                }
                return Ok(());
            };
            let event = EVENT_TRANSPORT_RESET.to_le_bytes();
            if copy_in(&chain.writable, 0, &event) < event.len() {
                return Err(Error::Request("a buffer for events of the socket device is too short"));
            }
            cx.push(EVENT, chain.head, event.len() as u32)?;
            self.lost = false;
            cx.notify(EVENT)?;
        }
        Ok(())
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE, 16]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        // Fails when the host has no memory left; then host programs wait.
        let _ = cx.watch(&self.peers.as_raw_fd(), LISTENER, EventSet::IN);
        Ok(())
    }

    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        match queue {
            RECEIVE => self.deliver(cx),
            TRANSMIT => {
                self.transmit(cx)?;
                self.deliver(cx)
            }
            _ => self.tell_lost(cx),
        }
    }

    fn process_event(&mut self, cx: &mut Context<'_>, token: u32, events: EventSet) -> Result<(), Error> {
        if token == LISTENER {
            self.accept(cx);
            return Ok(());
        }
        if token == TIMER {
            self.delay.expired();
            cx.notify(TRANSMIT)?;
            return if self.habit.is_relied_on() { self.process_queue(cx, TRANSMIT) } else { Ok(()) };
        }
        self.shake_hands(cx, token);
        if let Some(key) = self.sockets.key(token) {
            self.stir(cx, token, key, events);
        }
        self.deliver(cx)
    }

    fn drain(&mut self, rings: &mut Rings<'_>) {
        self.delay.told();
        // A driver that broke its rings hears nothing.
        let _ = rings.notify(TRANSMIT);
    }

    fn reset(&mut self) {
        self.muxer.clear();
        self.sockets = Sockets::default();
        self.delay = Delay::default();
        self.habit = Habit::default();
        self.lost = false;
    }

    fn save(&self) -> Vec<u8> {
        let Self { guest_cid, peers: _, muxer: _, sockets: _, delay: _, habit: _, lost: _ } = self;
        state::encode(&VsockState { guest_cid: *guest_cid })
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error> {
        let VsockState { guest_cid } = state::decode(saved)?;
        self.guest_cid = guest_cid;
        self.muxer = Muxer::new(guest_cid);
        self.lost = true;
        Ok(())
    }
}
