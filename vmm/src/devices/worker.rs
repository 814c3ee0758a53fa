//! The thread that devices do their work on, any number of sources in one event loop. It takes part in quiescing.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::event_loop::{Descriptors, EventLoop, Source};

/// Bytes of stack for each thread: ample, and less than the huge page that a default stack would begin with.
pub const STACK: usize = 256 << 10;

enum Command {
    Pause(Sender<()>),
    Resume,
    Stop,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    thread: JoinHandle<()>,
    commands: Sender<Command>,
    wake: Arc<EventFd>,
}

impl Worker {
    /// Starts a thread that serves `sources`, or waits for [`Worker::resume`] first if `paused`.
    pub fn spawn(name: &str, sources: Vec<Box<dyn Source>>, paused: bool) -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let (commands, received) = mpsc::channel();
        let events = EventLoop::new()?;
        let waker = Waker { event: Arc::clone(&wake), woken: Arc::default() };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK)
            .spawn(move || serve(events, waker, sources, &received, paused))?;
        Ok(Self { thread, commands, wake })
    }

    /// Pauses: `acknowledge` hears when nothing is in flight any more.
    pub fn pause(&self, acknowledge: Sender<()>) {
        self.command(Command::Pause(acknowledge));
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.command(Command::Resume);
    }

    /// Tells the worker to finish what was begun and to end; [`Worker::join`] waits for it.
    pub fn stop(&self) {
        self.command(Command::Stop);
    }

    /// Waits for the thread's end.
    pub fn join(self) {
        // A worker that panicked has ended the process.
        let _ = self.thread.join();
    }

    fn command(&self, command: Command) {
        // Both fail only after the thread's end.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

/// Brings the loop back to its commands, and says that there are some: to look costs more than that.
struct Waker {
    event: Arc<EventFd>,
    woken: Arc<AtomicBool>,
}

impl Source for Waker {
    fn begin(&mut self, descriptors: &mut dyn Descriptors) {
        // Fails only for a descriptor that is not one.
        let _ = descriptors.add(self.event.as_raw_fd(), 0, EventSet::IN);
    }

    fn process(&mut self, _token: u32, _events: EventSet, _descriptors: &mut dyn Descriptors) {
        let _ = self.event.read();
        self.woken.store(true, Ordering::Relaxed);
    }
}

fn serve(
    mut events: EventLoop,
    waker: Waker,
    sources: Vec<Box<dyn Source>>,
    commands: &Receiver<Command>,
    mut paused: bool,
) {
    let woken = Arc::clone(&waker.woken);
    events.add(Box::new(waker));
    sources.into_iter().for_each(|source| events.add(source));
    loop {
        loop {
            let command = if paused { commands.recv().ok() } else { commands.try_recv().ok() };
            match command {
                Some(Command::Pause(acknowledge)) => {
                    events.sources().for_each(Source::drain);
                    paused = true;
                    // Nobody waits any more when the owner has given up.
                    let _ = acknowledge.send(());
                }
                Some(Command::Resume) => paused = false,
                Some(Command::Stop) => {
                    events.sources().for_each(Source::finish);
                    return;
                }
                None if paused => return,
                None => break,
            }
        }
        while !woken.swap(false, Ordering::Relaxed) {
            // Fails only for a loop that is not one.
            let _ = events.turn(-1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// Counts the events it is given, and says when it was drained and finished.
    struct Counter {
        event: Arc<EventFd>,
        seen: Arc<AtomicU32>,
        calls: Sender<&'static str>,
    }

    impl Source for Counter {
        fn begin(&mut self, descriptors: &mut dyn Descriptors) {
            descriptors.add(self.event.as_raw_fd(), 0, EventSet::IN).unwrap();
        }

        fn process(&mut self, _token: u32, _events: EventSet, _descriptors: &mut dyn Descriptors) {
            self.seen.fetch_add(u32::try_from(self.event.read().unwrap()).unwrap(), Ordering::SeqCst);
        }

        fn finish(&mut self) {
            self.calls.send("finish").unwrap();
        }

        fn drain(&mut self) {
            self.calls.send("drain").unwrap();
        }
    }

    #[test]
    fn pauses_and_goes_on() {
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let seen = Arc::new(AtomicU32::new(0));
        let (calls, called) = mpsc::channel();
        let counter = Counter { event: event.clone(), seen: seen.clone(), calls };
        let worker = Worker::spawn("test", vec![Box::new(counter)], false).unwrap();
        for round in 1..=100 {
            let (acknowledge, acknowledged) = mpsc::channel();
            worker.pause(acknowledge);
            acknowledged.recv().unwrap();
            let before = seen.load(Ordering::SeqCst);
            event.write(1).unwrap();
            std::thread::yield_now();
            assert_eq!(seen.load(Ordering::SeqCst), before, "round {round}: works although paused");
            worker.resume();
        }
        while seen.load(Ordering::SeqCst) < 100 {
            std::thread::yield_now();
        }
        worker.stop();
        worker.join();
        assert_eq!(called.iter().filter(|&c| c == "drain").count(), 100);
    }

    #[test]
    fn finishes_before_it_ends() {
        let (calls, called) = mpsc::channel();
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let counter = Counter { event, seen: Arc::default(), calls };
        let worker = Worker::spawn("test", vec![Box::new(counter)], false).unwrap();
        worker.stop();
        worker.join();
        assert_eq!(called.iter().collect::<Vec<_>>(), ["finish"]);
    }
}
