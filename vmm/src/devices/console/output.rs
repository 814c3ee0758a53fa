//! From the guest's serial port to a [`Sink`], through a bounded queue.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use vmm_sys_util::epoll::EventSet;

use super::Sink;
use crate::devices::event_loop::{Descriptors, Source};

/// Bytes that wait at most; what the guest writes beyond is lost, and counted.
const CAPACITY: usize = 1 << 20;
/// How long the first byte waits for others: a guest writes one at a time, and waking the worker for each takes far
/// longer than to write it. In nanoseconds.
const GATHER: i64 = 200_000;
/// How long the end of a VM waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it waits for a reader that is slow.
const LONGEST: Duration = Duration::from_secs(5);

/// The queue's near end, which the serial port writes to. It never blocks and never fails.
#[derive(Clone, Debug)]
pub struct ConsoleOutput(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    bytes: Mutex<VecDeque<u8>>,
    /// Readable [`GATHER`] after something has come into the empty queue.
    filled: OwnedFd,
    lost: AtomicU64,
}

impl ConsoleOutput {
    /// An empty queue.
    pub fn new() -> io::Result<Self> {
        let filled =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Queue { bytes: Mutex::default(), filled, lost: AtomicU64::new(0) })))
    }

    /// How many bytes were lost because nobody took them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Takes all that is in the queue.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        self.queue().drain(..).collect()
    }

    fn lose(&self, count: usize) {
        self.0.lost.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for ConsoleOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut queue = self.queue();
        let was_empty = queue.is_empty();
        let room = bytes.len().min(CAPACITY - queue.len());
        queue.extend(&bytes[..room]);
        drop(queue);
        self.lose(bytes.len() - room);
        if was_empty {
            let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
            let once = Itimerspec { it_interval: time(0), it_value: time(GATHER) };
            timerfd_settime(&self.0.filled, TimerfdTimerFlags::empty(), &once)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The queue's far end, on the device worker.
#[derive(Debug)]
pub struct OutputPump {
    queue: ConsoleOutput,
    /// `None` for nowhere.
    sink: Option<Sink>,
    /// Writing has failed: the reader is gone.
    failed: bool,
    waiting: bool,
}

impl OutputPump {
    /// Moves what comes into `queue` to `sink`, or nowhere.
    #[must_use]
    pub fn new(queue: ConsoleOutput, sink: Option<Sink>) -> Self {
        Self { queue, sink, failed: false, waiting: false }
    }

    /// Writes until the queue is empty or the sink wants us to wait; whether it does.
    fn pump(&mut self) -> bool {
        let Some(sink) = self.sink.as_mut().filter(|_| !self.failed) else {
            let taken = self.queue.take();
            if self.failed {
                self.queue.lose(taken.len());
            }
            return false;
        };
        loop {
            let mut queue = self.queue.queue();
            let chunk: Vec<u8> = queue.iter().copied().take(64 << 10).collect();
            if chunk.is_empty() {
                return false;
            }
            drop(queue);
            match sink.write(&chunk) {
                Ok(count) => {
                    queue = self.queue.queue();
                    queue.drain(..count);
                    if sink.must_wait() && !queue.is_empty() {
                        return true;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.failed = true;
                    self.queue.lose(self.queue.take().len());
                    return false;
                }
            }
        }
    }
}

impl Source for OutputPump {
    fn begin(&mut self, descriptors: &mut dyn Descriptors) {
        // A worker that cannot listen at all would have failed before.
        let _ = descriptors.add(self.queue.0.filled.as_raw_fd(), 0, EventSet::IN);
    }

    fn process(&mut self, _token: u32, _events: EventSet, descriptors: &mut dyn Descriptors) {
        // Nothing to read when it was the sink that woke us.
        let _ = rustix::io::read(&self.queue.0.filled, &mut [0; 8]);
        let must_wait = self.pump();
        let has_changed = std::mem::replace(&mut self.waiting, must_wait) != must_wait;
        match &self.sink {
            // A regular file cannot be waited for, and never has to be.
            Some(sink) if has_changed && must_wait => {
                let _ = descriptors.add(sink.as_raw_fd(), 0, EventSet::OUT);
            }
            Some(sink) if has_changed => descriptors.remove(sink.as_raw_fd()),
            _ => {}
        }
        if self.failed {
            // Not sooner: while others have copies of it, it would be watched for ever.
            self.sink = None;
        }
    }

    /// Writes out what the guest has said, as long as the reader takes it.
    fn finish(&mut self) {
        self.finish_within(LONGEST);
    }
}

impl OutputPump {
    fn finish_within(&mut self, longest: Duration) {
        let begin = Instant::now();
        let mut progress = begin;
        let mut left = self.queue.queue().len();
        while self.pump() && progress.elapsed() < PATIENCE && begin.elapsed() < longest {
            std::thread::sleep(Duration::from_millis(1));
            let now = self.queue.queue().len();
            if now < left {
                (left, progress) = (now, Instant::now());
            }
        }
        self.queue.lose(self.queue.take().len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::event_loop::EventLoop;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::io::Read;

    #[test]
    fn what_comes_together_wakes_once() {
        let output = ConsoleOutput::new().unwrap();
        let filled = || {
            let mut fds = [PollFd::new(&output.0.filled, PollFlags::IN)];
            poll(&mut fds, None).unwrap()
        };
        for _ in 0..2 {
            for byte in b"text" {
                output.clone().write_all(&[*byte]).unwrap();
            }
            assert_eq!(filled(), 1);
            let mut times = [0; 8];
            rustix::io::read(&output.0.filled, &mut times).unwrap();
            assert_eq!(u64::from_ne_bytes(times), 1);
            assert_eq!(output.take(), b"text");
        }
    }

    #[test]
    fn a_flood_is_bounded_and_counted() {
        let mut output = ConsoleOutput::new().unwrap();
        output.write_all(&vec![b'x'; CAPACITY + 5]).unwrap();
        output.write_all(b"more").unwrap();
        assert_eq!(output.lost(), 9);
        assert_eq!(output.take().len(), CAPACITY);
    }

    #[test]
    fn what_was_said_arrives() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = ConsoleOutput::new().unwrap();
        let mut pump = OutputPump::new(output.clone(), Some(Sink::new(writer.into()).unwrap()));
        let text: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        output.write_all(&text).unwrap();
        assert!(pump.pump(), "a pipe holds less");
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        pump.finish();
        drop(pump);
        assert_eq!(reading.join().unwrap().unwrap(), text);
        assert_eq!(output.lost(), 0);
    }

    #[test]
    fn a_reader_that_is_slow_does_not_hold_up_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = ConsoleOutput::new().unwrap();
        let mut pump = OutputPump::new(output.clone(), Some(Sink::new(writer.into()).unwrap()));
        output.write_all(&vec![b'x'; CAPACITY]).unwrap();
        // It would take everything, given the time.
        let reading = std::thread::spawn(move || {
            while reader.read(&mut [0; 4096]).unwrap() > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        pump.finish_within(Duration::ZERO);
        drop(pump);
        assert!(output.lost() > 0 && output.take().is_empty());
        reading.join().unwrap();
    }

    #[test]
    fn a_reader_that_is_gone_costs_nothing() {
        let (reader, writer) = io::pipe().unwrap();
        let mut output = ConsoleOutput::new().unwrap();
        let mut pump = OutputPump::new(output.clone(), Some(Sink::new(writer.into()).unwrap()));
        drop(reader);
        output.write_all(b"anybody?").unwrap();
        assert!(!pump.pump());
        assert_eq!(output.lost(), 8);
        output.write_all(b"no?").unwrap();
        assert!(!pump.pump());
        assert_eq!(output.lost(), 11, "also what comes later");
        let mut off = OutputPump::new(output.clone(), None);
        output.write_all(b"nobody is meant to").unwrap();
        assert!(!off.pump());
        assert_eq!(output.lost(), 11);
    }

    #[test]
    fn a_reader_that_goes_while_it_is_waited_for_is_waited_for_no_more() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let _copy = writer.try_clone().unwrap();
        let mut output = ConsoleOutput::new().unwrap();
        let sink = Sink::new(OwnedFd::from(writer)).unwrap();
        let mut events = EventLoop::new().unwrap();
        events.add(Box::new(OutputPump::new(output.clone(), Some(sink))));
        output.write_all(&vec![b'x'; CAPACITY]).unwrap();
        assert_eq!(events.turn(-1).unwrap(), 1);
        assert_eq!(events.turn(0).unwrap(), 0, "it waits for room");
        drop(reader);
        assert_eq!(events.turn(-1).unwrap(), 1);
        assert_eq!(events.turn(10).unwrap(), 0);
        assert_eq!(output.take(), b"");
    }
}
