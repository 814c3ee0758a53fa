//! Requests that go on in the background.
#![allow(unsafe_code, reason = "buffers in guest memory are kept beyond a borrow of the map, with the map")]

use std::sync::Arc;

use vm_memory::bitmap::Bitmap;

use super::super::chain::Buffers;
use super::request::Status;
use crate::memory::{Map, Slice, is_tracked};

/// One of them.
#[derive(Debug)]
pub struct Flight {
    queue: u16,
    head: u16,
    written: u32,
    // Before `memory`, which they borrow from.
    data: Buffers<'static>,
    status: Slice<'static>,
    memory: Arc<Map>,
}

// SAFETY: its slices are addresses in a mapping that belongs to the process and that the flight keeps.
unsafe impl Send for Flight {}

impl Flight {
    /// Tells the driver how it ended. Its queue, the head of its chain, and the bytes that were written to that.
    pub fn end(self, status: Status) -> (u16, u16, u32) {
        mark_dirty(&self.data, &self.memory);
        self.status.copy_from(&[status as u8]);
        (self.queue, self.head, if status == Status::Ok { self.written } else { 1 })
    }
}

/// All of them, each under a number of its own.
#[derive(Debug, Default)]
pub struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<u16>,
}

impl Flights {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A number that none of them has; there are few enough for that ([`super::MAX_FLIGHTS`]).
    pub fn next(&self) -> u16 {
        self.free.last().copied().unwrap_or(self.slots.len() as u16)
    }

    /// Adds one under [`Flights::next`]. `answer` is where its data and its status go, in `memory`.
    pub fn take_off(
        &mut self,
        id: u16,
        queue: u16,
        head: u16,
        written: u32,
        (data, status): (Buffers<'_>, Slice<'_>),
        memory: &Arc<Map>,
    ) {
        // SAFETY: only the lifetime changes, and the map that it stands for is kept beside it.
        let data = unsafe { std::mem::transmute::<Buffers<'_>, Buffers<'static>>(data) };
        // SAFETY: as above.
        let status = unsafe { std::mem::transmute::<Slice<'_>, Slice<'static>>(status) };
        let flight = Flight { queue, head, written, data, status, memory: Arc::clone(memory) };
        match self.free.pop() {
            Some(_) => self.slots[usize::from(id)] = Some(flight),
            None => self.slots.push(Some(flight)),
        }
    }

    /// Takes one out.
    pub fn land(&mut self, id: u16) -> Option<Flight> {
        let flight = self.slots.get_mut(usize::from(id))?.take();
        if flight.is_some() {
            self.free.push(id);
        }
        flight
    }
}

/// Marks the pages of buffers that were written to: not one by one as long as nobody wants to know.
pub fn mark_dirty(buffers: &[Slice<'_>], memory: &Map) {
    match buffers {
        [one] => one.bitmap().mark_dirty(0, one.len()),
        _ if is_tracked(memory) => {
            buffers.iter().for_each(|buffer| buffer.bitmap().mark_dirty(0, buffer.len()));
        }
        _ => {}
    }
}
