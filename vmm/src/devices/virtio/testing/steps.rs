//! A worker without an event loop of the kernel's: what a device watches is told of each time, whether something has
//! happened to it or not. A step costs no system call, and a device has to bear being asked in vain.

use std::io;
use std::os::fd::RawFd;

use vmm_sys_util::epoll::EventSet;

use crate::devices::event_loop::Descriptors;
use crate::devices::virtio::transport::Core;

/// What is watched: descriptors, and their tokens.
#[derive(Debug, Default)]
pub(super) struct Steps(Vec<(RawFd, u32)>);

impl Steps {
    /// A driver has made the device ready, and has nothing to ask of it yet.
    pub(super) fn begin(&mut self, core: &Core) {
        core.settle(self);
        self.queues(core);
    }

    /// Gives the device the time to do what there is to do.
    pub(super) fn run(&mut self, core: &Core) {
        core.settle(self);
        self.queues(core);
        self.events(core);
    }

    /// As [`Steps::run`], when the doorbell of a queue was rung.
    pub(super) fn kick(&mut self, core: &Core, queue: u16) {
        self.ring(core, queue);
        self.events(core);
    }

    /// What may have happened to what is watched.
    fn events(&mut self, core: &Core) {
        for at in 0..self.0.len() {
            self.happen(core, at, EventSet::IN | EventSet::OUT);
        }
        // What asked for another turn, and what events have brought.
        self.queues(core);
    }

    /// The doorbell of a queue was rung.
    pub(super) fn ring(&mut self, core: &Core, queue: u16) {
        core.settle(self);
        core.process(queue.into(), EventSet::IN, self);
    }

    /// Something has happened to the descriptor that was watched as number `at`, if there is one.
    pub(super) fn happen(&mut self, core: &Core, at: usize, events: EventSet) {
        if let Some(&(_, token)) = self.0.get(at) {
            core.process(token, events, self);
        }
    }

    /// How many descriptors are watched.
    pub(super) fn watched(&self) -> usize {
        self.0.len()
    }

    fn queues(&mut self, core: &Core) {
        for queue in 0..core.queue_count() {
            core.process(queue.into(), EventSet::IN, self);
        }
    }
}

impl Descriptors for Steps {
    fn add(&mut self, fd: RawFd, token: u32, _events: EventSet) -> io::Result<()> {
        self.0.push((fd, token));
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, token: u32, _events: EventSet) -> io::Result<()> {
        let watched = self.0.iter_mut().find(|(watched, _)| *watched == fd);
        watched.ok_or(io::ErrorKind::NotFound)?.1 = token;
        Ok(())
    }

    fn remove(&mut self, fd: RawFd) {
        self.0.retain(|&(watched, _)| watched != fd);
    }
}
