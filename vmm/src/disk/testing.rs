//! A disk in memory, which fails, and works in the background, when it is told to.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::{Backend, Geometry, Operation, SECTOR};
use crate::memory::Slice;

/// What stands behind a [`FakeDisk`].
#[derive(Debug, Default)]
pub struct FakeState {
    /// The contents.
    pub bytes: Vec<u8>,
    /// The contents that would be left after a power cut: those of the last flush, and durable writes.
    pub durable: Vec<u8>,
    /// Every operation fails.
    pub fails: bool,
    /// Operations go on in the background until [`FakeDisk::complete`].
    pub background: bool,
    waiting: VecDeque<u16>,
    ended: VecDeque<(u16, io::Result<()>)>,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    state: Arc<Mutex<FakeState>>,
    readonly: bool,
    ready: Arc<OwnedFd>,
}

impl FakeDisk {
    /// A disk with these contents, a whole number of sectors.
    pub fn new(bytes: Vec<u8>, readonly: bool) -> io::Result<Self> {
        let state = FakeState { durable: bytes.clone(), bytes, ..FakeState::default() };
        let ready = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { state: Arc::new(Mutex::new(state)), readonly, ready: Arc::new(ready) })
    }

    /// What stands behind it.
    pub fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends one operation in the background, the newest first. Whether there was one.
    pub fn complete(&self) -> bool {
        let mut state = self.state();
        let Some(id) = state.waiting.pop_back() else { return false };
        let result = if state.fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
        state.ended.push_back((id, result));
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.ready, &1_u64.to_ne_bytes());
        true
    }
}

impl FakeState {
    fn run(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        if self.fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match *operation {
            Operation::Read { offset, to } => {
                copy(to, offset, |slice, range| slice.copy_from(&self.bytes[range]));
            }
            Operation::Write { offset, from, durable } => {
                copy(from, offset, |slice, range| {
                    slice.copy_to(&mut self.bytes[range.clone()]);
                    if durable {
                        self.durable[range.clone()].copy_from_slice(&self.bytes[range]);
                    }
                });
            }
            Operation::WriteZeroes { offset, len, durable, .. } => {
                let range = offset as usize..(offset + len) as usize;
                self.bytes[range.clone()].fill(0);
                if durable {
                    self.durable[range].fill(0);
                }
            }
            Operation::Discard { offset, len } => {
                self.bytes[offset as usize..(offset + len) as usize].fill(0);
            }
            Operation::Flush => self.durable.clone_from(&self.bytes),
        }
        Ok(())
    }
}

fn copy(slices: &[Slice<'_>], offset: u64, mut each: impl FnMut(&Slice<'_>, std::ops::Range<usize>)) {
    let mut at = offset as usize;
    for slice in slices {
        each(slice, at..at + slice.len());
        at += slice.len();
    }
}

impl Backend for FakeDisk {
    fn geometry(&self) -> Geometry {
        let size = self.state().bytes.len() as u64;
        Geometry { size, logical_block: SECTOR as u32, physical_block: 4096, readonly: self.readonly }
    }

    fn start(&mut self, id: u16, operation: &Operation<'_>) -> Option<io::Result<()>> {
        let mut state = self.state();
        if !state.background {
            return Some(state.run(operation));
        }
        if !state.fails {
            // Done in secret: what the guest can tell is when it is told.
            let done = state.run(operation);
            debug_assert!(done.is_ok());
        }
        state.waiting.push_back(id);
        None
    }

    fn completed(&mut self) -> Option<(u16, io::Result<()>)> {
        self.state().ended.pop_front()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.complete();
        Ok(())
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }
}
