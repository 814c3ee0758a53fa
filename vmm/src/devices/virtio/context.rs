//! What the core lends to a device while it calls it.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;
use super::batch::Batch;
use super::chain::Chain;
use super::queue::{Areas, Error, Queue};
use super::transport::Transport;
use crate::devices::event_loop::Descriptors;
use crate::memory::{Lookup, Map};

/// A queue, where its ring is, and what finds its buffers.
type Ring<'r, 'a> = (&'r mut Queue, &'r mut Areas<'a>, &'r mut Lookup<'a>);

/// Rings and guest memory.
pub struct Rings<'a> {
    memory: &'a Arc<Map>,
    lookup: Lookup<'a>,
    queues: &'a mut [Queue],
    /// The ring that was used last.
    areas: Option<(u16, Areas<'a>)>,
    features: u64,
    transport: &'a dyn Transport,
    doorbells: &'a [Arc<EventFd>],
    /// The configuration space has changed by itself.
    pub(super) config_changed: bool,
}

impl<'a> Rings<'a> {
    pub(super) fn new(
        memory: &'a Arc<Map>,
        queues: &'a mut [Queue],
        features: u64,
        transport: &'a dyn Transport,
        doorbells: &'a [Arc<EventFd>],
    ) -> Self {
        let lookup = Lookup::new(memory);
        Self { memory, lookup, queues, areas: None, features, transport, doorbells, config_changed: false }
    }

    /// The feature bits that were negotiated.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether the feature with this bit number was negotiated.
    #[must_use]
    pub fn has(&self, bit: u32) -> bool {
        self.features >> bit & 1 == 1
    }

    /// Guest memory; who keeps buffers beyond the call keeps a clone, which keeps the mapping.
    #[must_use]
    pub fn memory(&self) -> &'a Arc<Map> {
        self.memory
    }

    /// Whether the driver uses this queue.
    #[must_use]
    pub fn is_ready(&self, queue: u16) -> bool {
        self.queues.get(usize::from(queue)).is_some_and(Queue::is_ready)
    }

    /// A queue that the driver uses, where its ring is, and what finds its buffers.
    // For every chain, several times: an optimizer for size would call it.
    #[inline(always)]
    fn ring(&mut self, queue: u16) -> Result<Option<Ring<'_, 'a>>, Error> {
        let Some(ring) = self.queues.get_mut(usize::from(queue)).filter(|ring| ring.is_ready()) else {
            return Ok(None);
        };
        if self.areas.as_ref().is_none_or(|(last, _)| *last != queue) {
            self.areas = Some((queue, ring.areas(&mut self.lookup)?));
        }
        Ok(self.areas.as_mut().map(|(_, areas)| (ring, areas, &mut self.lookup)))
    }

    /// The next chain of a queue, checked. None for a queue that the driver does not use.
    pub fn pop(&mut self, queue: u16) -> Result<Option<Chain<'a>>, Error> {
        let mut chain = Chain::default();
        Ok(self.pop_into(queue, &mut chain)?.then_some(chain))
    }

    /// As [`Rings::pop`], for many: appends the chain's buffers to those of `chain`, and makes its head that one's. Whether
    /// there was one.
    pub fn pop_into(&mut self, queue: u16, chain: &mut Chain<'a>) -> Result<bool, Error> {
        self.ring(queue)?.map_or(Ok(false), |(ring, areas, memory)| ring.pop(memory, areas, chain))
    }

    /// Appends chains of a queue to `batch`, for as long as there are any, until it has room for `len` bytes, or `most`
    /// chains.
    pub fn gather(
        &mut self,
        queue: u16,
        batch: &mut Batch<'a>,
        len: usize,
        most: usize,
    ) -> Result<(), Error> {
        let Some((ring, areas, memory)) = self.ring(queue)? else { return Ok(()) };
        ring.gather(memory, areas, batch, len, most)
    }

    /// Makes the chain of the last [`Rings::pop`] available again, as if it had not been taken.
    pub fn undo_pop(&mut self, queue: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
            queue.undo_pop();
        }
    }

    /// Gives the chain that began at `head` back, with the number of bytes that were written to it.
    pub fn push(&mut self, queue: u16, head: u16, written: u32) -> Result<(), Error> {
        self.push_all(queue, [(head, written)])
    }

    /// Gives several chains back, which the driver sees all at once.
    pub fn push_all(&mut self, queue: u16, used: impl IntoIterator<Item = (u16, u32)>) -> Result<(), Error> {
        self.ring(queue)?.map_or(Ok(()), |(ring, areas, _)| ring.push(areas, used))
    }

    /// A queue's number of descriptors, as the driver has set it.
    #[must_use]
    pub fn size(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(0, Queue::size)
    }

    /// Chains that were pushed to a queue since the last [`Rings::notify`].
    #[must_use]
    pub fn untold(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(0, Queue::untold)
    }

    /// Interrupts the driver for what was pushed, if it wants that. Once after a batch is enough.
    pub fn notify(&mut self, queue: u16) -> Result<(), Error> {
        let Some((ring, areas, _)) = self.ring(queue)? else { return Ok(()) };
        if ring.take_notification(areas)? {
            self.transport.interrupt_queue(queue);
        }
        Ok(())
    }

    /// Asks the driver to ring for the next chain. Whether there is one already: then look again, since the driver
    /// may not ring for it.
    pub fn listen(&mut self, queue: u16) -> Result<bool, Error> {
        self.listen_beyond(queue, 0)
    }

    /// As [`Rings::listen`], but the driver need not ring for the next `spared` chains: who asks for that has to look in time.
    pub fn listen_beyond(&mut self, queue: u16, spared: u16) -> Result<bool, Error> {
        self.ring(queue)?.map_or(Ok(false), |(ring, areas, _)| ring.listen(areas, spared))
    }

    /// Has the queue processed once more, after others had their turn.
    pub fn again(&self, queue: u16) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue)) {
            // Fails only when the counter is full, which takes 2^64 rings.
            let _ = doorbell.write(1);
        }
    }

    /// Tells the driver, after this call of the device, that the configuration space has changed by itself.
    pub fn config_changed(&mut self) {
        self.config_changed = true;
    }

    /// Shows the driver the configuration space that it has had changed by a command, which is to be done before the
    /// command is given back.
    pub fn show_config(&self, device: &dyn VirtioDevice) {
        self.transport.show_config(device);
    }

    /// Serves a queue whose requests are done at once: `serve` says how many bytes it wrote to the chain. As many
    /// chains as the queue has descriptors are served, then it is the turn of others.
    pub fn serve(
        &mut self,
        queue: u16,
        mut serve: impl FnMut(&Chain<'a>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let mut left = self.size(queue);
        loop {
            match self.pop(queue)? {
                Some(chain) => {
                    let written = serve(&chain)?;
                    self.push(queue, chain.head, written)?;
                    left = left.saturating_sub(1);
                    if left == 0 {
                        self.again(queue);
                        break;
                    }
                }
                None if self.listen(queue)? => {}
                None => break,
            }
        }
        self.notify(queue)
    }
}

/// What a device has while it is called on the worker: [`Rings`], and the descriptors that it watches.
pub struct Context<'a> {
    pub(super) rings: Rings<'a>,
    /// Absent at the worker's end, when nothing is watched any more.
    pub(super) descriptors: Option<&'a mut dyn Descriptors>,
    pub(super) watched: &'a mut Vec<RawFd>,
}

impl<'a> Deref for Context<'a> {
    type Target = Rings<'a>;

    fn deref(&self) -> &Self::Target {
        &self.rings
    }
}

impl DerefMut for Context<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.rings
    }
}

impl Context<'_> {
    /// Calls [`super::VirtioDevice::process_event`] with `token` when `fd` is ready. A descriptor that is watched
    /// already is from now on watched for these events. It has to be [unwatched](Context::unwatch) before it is
    /// closed; a reset unwatches all.
    pub fn watch(&mut self, fd: &impl AsRawFd, token: u32, events: EventSet) -> std::io::Result<()> {
        let (fd, token) = (fd.as_raw_fd(), token | super::transport::DEVICE_TOKEN);
        let Some(descriptors) = &mut self.descriptors else { return Ok(()) };
        if self.watched.contains(&fd) {
            return descriptors.modify(fd, token, events);
        }
        descriptors.add(fd, token, events)?;
        self.watched.push(fd);
        Ok(())
    }

    /// Watches nothing any more: what stays readable would wake the worker again and again.
    pub(super) fn unwatch_all(&mut self) {
        if let Some(descriptors) = &mut self.descriptors {
            self.watched.drain(..).for_each(|fd| descriptors.remove(fd));
        }
    }

    /// Watches a descriptor no more.
    pub fn unwatch(&mut self, fd: &impl AsRawFd) {
        let fd = fd.as_raw_fd();
        if let Some(at) = self.watched.iter().position(|&watched| watched == fd) {
            self.watched.swap_remove(at);
            if let Some(descriptors) = &mut self.descriptors {
                descriptors.remove(fd);
            }
        }
    }
}
