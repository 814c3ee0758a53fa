//! Waits for descriptors, by epoll, and tells who watches them. What an event takes is what a round trip takes several
//! times over: who watches a descriptor is found by the descriptor's number, in a list.

use std::io;
use std::os::fd::RawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// The most events that are taken from the kernel at once.
const READY: usize = 64;

/// Something that reacts to descriptors.
pub trait Source: Send {
    /// Begins to watch. Called once, when it is added to a loop.
    fn begin(&mut self, descriptors: &mut dyn Descriptors);

    /// A descriptor is ready that it watches by this token.
    fn process(&mut self, token: u32, events: EventSet, descriptors: &mut dyn Descriptors);

    /// Brings what was begun to an end; nothing is begun after it. Called before the worker stops for good.
    fn finish(&mut self) {}

    /// Completes what is in flight, so that the device's state can be saved. Called when the worker pauses.
    fn drain(&mut self) {}
}

/// Where descriptors are watched: an event loop, on behalf of one source.
pub trait Descriptors {
    /// Begins to watch.
    fn add(&mut self, fd: RawFd, token: u32, events: EventSet) -> io::Result<()>;
    /// Watches for other events.
    fn modify(&mut self, fd: RawFd, token: u32, events: EventSet) -> io::Result<()>;
    /// Watches no more: what has happened and was not told yet is not told any more.
    fn remove(&mut self, fd: RawFd);
}

/// An event loop, and the sources that it tells.
pub struct EventLoop {
    sources: Vec<Box<dyn Source>>,
    watched: Watched,
}

struct Watched {
    epoll: Epoll,
    /// The number of the source that watches a descriptor, by the descriptor's number; kept when it does no more.
    owners: Vec<usize>,
    /// What the kernel gave last; without any event where it is not to be told.
    ready: Vec<EpollEvent>,
}

impl EventLoop {
    /// A loop without sources.
    pub fn new() -> io::Result<Self> {
        let watched =
            Watched { epoll: Epoll::new()?, owners: Vec::new(), ready: vec![EpollEvent::default(); READY] };
        Ok(Self { sources: Vec::new(), watched })
    }

    /// Adds a source, which begins to watch.
    pub fn add(&mut self, mut source: Box<dyn Source>) {
        source.begin(&mut OfSource { watched: &mut self.watched, source: self.sources.len() });
        self.sources.push(source);
    }

    /// All sources.
    pub fn sources(&mut self) -> impl Iterator<Item = &mut dyn Source> {
        self.sources.iter_mut().map(|source| &mut **source as &mut dyn Source)
    }

    /// Waits for something to happen, for so many milliseconds (-1: for ever), and tells whom it concerns. How many
    /// events there were; none when a signal came in between.
    pub fn turn(&mut self, milliseconds: i32) -> io::Result<usize> {
        let Self { sources, watched } = self;
        let count = match watched.epoll.wait(milliseconds, &mut watched.ready) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        for at in 0..count {
            let event = watched.ready[at];
            let owner = watched.owners.get(event.fd() as usize).copied();
            if event.events() != 0
                && let Some(owner) = owner
                && let Some(source) = sources.get_mut(owner)
            {
                let (token, events) = ((event.data() >> 32) as u32, event.events());
                let mut descriptors = OfSource { watched, source: owner };
                source.process(token, EventSet::from_bits_truncate(events), &mut descriptors);
            }
        }
        Ok(count)
    }
}

/// What a source sees of the loop.
struct OfSource<'a> {
    watched: &'a mut Watched,
    source: usize,
}

impl OfSource<'_> {
    fn control(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        token: u32,
        events: EventSet,
    ) -> io::Result<()> {
        let data = u64::from(token) << 32 | u64::from(fd as u32);
        self.watched.epoll.ctl(operation, fd, EpollEvent::new(events, data))
    }
}

impl Descriptors for OfSource<'_> {
    fn add(&mut self, fd: RawFd, token: u32, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd, token, events)?;
        // What the kernel has taken is a number of a descriptor.
        let (at, owners) = (fd as usize, &mut self.watched.owners);
        owners.resize(owners.len().max(at + 1), usize::MAX);
        owners[at] = self.source;
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, token: u32, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd, token, events)
    }

    fn remove(&mut self, fd: RawFd) {
        // Fails only for a descriptor that is not watched.
        let _ = self.control(ControlOperation::Delete, fd, 0, EventSet::empty());
        for event in self.watched.ready.iter_mut().filter(|event| event.fd() == fd) {
            *event = EpollEvent::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    /// Watches some descriptors; those after the first that is told of, it does not watch any more.
    struct OneOf {
        events: Vec<Arc<EventFd>>,
        first: u32,
        told: Sender<(u32, EventSet)>,
    }

    impl Source for OneOf {
        fn begin(&mut self, descriptors: &mut dyn Descriptors) {
            for (event, token) in self.events.iter().zip(self.first..) {
                descriptors.add(event.as_raw_fd(), token, EventSet::IN).unwrap();
            }
        }

        fn process(&mut self, token: u32, events: EventSet, descriptors: &mut dyn Descriptors) {
            self.told.send((token, events)).unwrap();
            for (event, other) in self.events.iter().zip(self.first..) {
                if other == token {
                    event.read().unwrap();
                } else {
                    descriptors.remove(event.as_raw_fd());
                }
            }
        }
    }

    fn one_of(count: usize, first: u32, told: &Sender<(u32, EventSet)>) -> (Vec<Arc<EventFd>>, Box<OneOf>) {
        let event = || Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let events: Vec<_> = (0..count).map(|_| event()).collect();
        (events.clone(), Box::new(OneOf { events, first, told: told.clone() }))
    }

    fn tokens(told: &Receiver<(u32, EventSet)>) -> Vec<u32> {
        told.try_iter().map(|(token, events)| (events == EventSet::IN).then_some(token).unwrap()).collect()
    }

    #[test]
    fn each_hears_of_its_own() {
        const LARGE: u32 = u32::MAX - 1;
        let (told, tell) = channel();
        let mut all = EventLoop::new().unwrap();
        let (a, source_a) = one_of(1, 7, &told);
        let (b, source_b) = one_of(1, LARGE, &told);
        all.add(source_a);
        all.add(source_b);
        assert_eq!(all.turn(0).unwrap(), 0);
        b[0].write(1).unwrap();
        assert_eq!((all.turn(-1).unwrap(), tokens(&tell)), (1, vec![LARGE]));
        a[0].write(1).unwrap();
        b[0].write(1).unwrap();
        assert_eq!(all.turn(-1).unwrap(), 2);
        let mut both = tokens(&tell);
        both.sort_unstable();
        assert_eq!(both, [7, LARGE]);
        assert_eq!(all.turn(0).unwrap(), 0);
    }

    #[test]
    fn what_is_not_watched_any_more_is_not_told_of() {
        let (told, tell) = channel();
        let mut all = EventLoop::new().unwrap();
        let (events, source) = one_of(3, 0, &told);
        all.add(source);
        events.iter().for_each(|event| event.write(1).unwrap());
        assert_eq!(all.turn(-1).unwrap(), 3, "all of them had happened");
        assert_eq!(tokens(&tell).len(), 1, "the first has made the others void");
        assert_eq!(all.turn(0).unwrap(), 0);
    }

    #[test]
    fn more_than_are_taken_at_once_come_all_the_same() {
        let (told, tell) = channel();
        let mut all = EventLoop::new().unwrap();
        let sources = (0..3 * READY as u32).map(|token| one_of(1, token, &told));
        let events: Vec<_> = sources
            .map(|(events, source)| {
                all.add(source);
                events[0].write(1).unwrap();
                events
            })
            .collect();
        while all.turn(0).unwrap() > 0 {}
        let mut seen = tokens(&tell);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..events.len() as u32));
    }
}
