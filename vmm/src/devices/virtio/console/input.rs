//! What is typed, on its way to the guest.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::devices::console::InputPort;

/// Bytes that wait at most.
const CAPACITY: usize = 4096;

/// The near end of the console's input: filled by the pump, emptied by the device.
#[derive(Debug)]
pub struct ConsoleInput {
    waiting: Mutex<Waiting>,
    /// Readable when there is room again.
    room: Arc<EventFd>,
    /// Readable when there is something for the guest.
    ready: EventFd,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// The guest's driver is up: what came before would only wait.
    listening: bool,
    /// The terminal's columns and rows, when they have changed.
    size: Option<(u16, u16)>,
}

impl ConsoleInput {
    /// Nothing typed yet.
    pub fn new() -> io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self { waiting: Mutex::default(), room: Arc::new(event()?), ready: event()? })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ready(&self) -> &EventFd {
        &self.ready
    }

    pub(super) fn take_size(&self) -> Option<(u16, u16)> {
        self.waiting().size.take()
    }

    /// The guest begins to listen, or does not any more.
    pub(super) fn listen(&self, listening: bool) {
        self.waiting().listening = listening;
        if listening {
            self.tell();
        }
    }

    fn tell(&self) {
        // As for `ready`.
        let _ = self.room.write(1);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting().bytes.is_empty()
    }

    /// Takes up to `len` bytes.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        let mut waiting = self.waiting();
        let len = len.min(waiting.bytes.len());
        let taken = waiting.bytes.drain(..len).collect();
        if waiting.bytes.is_empty() && len > 0 {
            self.tell();
        }
        taken
    }

    /// All that waits, which stays.
    pub(super) fn save(&self) -> Vec<u8> {
        self.waiting().bytes.iter().copied().collect()
    }

    pub(super) fn restore(&self, bytes: &[u8]) {
        self.waiting().bytes = bytes.iter().copied().take(CAPACITY).collect();
    }
}

impl InputPort for ConsoleInput {
    fn input_room(&self) -> usize {
        let waiting = self.waiting();
        if waiting.listening { CAPACITY - waiting.bytes.len() } else { 0 }
    }

    fn room_event(&self) -> &Arc<EventFd> {
        &self.room
    }

    fn input(&self, bytes: &[u8]) {
        let mut waiting = self.waiting();
        let room = CAPACITY - waiting.bytes.len();
        waiting.bytes.extend(&bytes[..bytes.len().min(room)]);
        drop(waiting);
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = self.ready.write(1);
    }

    fn resize(&self, columns: u16, rows: u16) {
        self.waiting().size = Some((columns, rows));
        // As above.
        let _ = self.ready.write(1);
    }
}
