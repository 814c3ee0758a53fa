//! A stream whose reader does not read yet: its writer has to wait, others go on, and in the end nothing is lost.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::address::{Address, Duplex};
use crate::pattern::Pattern;
use crate::{HOLD, READ, ask, give, round, take};

/// How many of those who wait in [`read`] may begin.
static READERS: (Mutex<u32>, Condvar) = (Mutex::new(0), Condvar::new());

/// Writes a stream that nobody reads, until it does not get on any more while other streams of the same kinds do. Then
/// it is read. What is under way by then has to be less than a quarter of it.
pub fn hold(address: &Address, bytes: u64) -> Result<()> {
    let mut stream = Counting { stream: ask(address, HOLD, bytes)?, written: Arc::default() };
    let written = Arc::clone(&stream.written);
    let writer = thread::spawn(move || {
        Pattern::default().send(&mut stream, bytes)?;
        stream.stream.read_exact(&mut [0]).context("nobody says that all of it has come")
    });
    let under_way = loop {
        let before = written.load(Ordering::Relaxed);
        round(address, 64, 20)?;
        give(address, 300_000)?;
        take(address, 300_000)?;
        if before > 0 && before == written.load(Ordering::Relaxed) {
            break before;
        }
    };
    ensure!(under_way < bytes / 4, "{under_way} of {bytes} bytes were taken though nobody reads them");
    ensure!(!writer.is_finished(), "the stream has ended before it was read");
    ask(address, READ, 0)?.read_exact(&mut [0]).context("nobody begins to read")?;
    writer.join().unwrap_or_else(|_| bail!("the writer panicked"))
}

/// The other end of [`hold`].
pub fn read(stream: &mut dyn Duplex, bytes: u64) -> Result<()> {
    let mut readers = READERS.0.lock().unwrap_or_else(PoisonError::into_inner);
    while *readers == 0 {
        readers = READERS.1.wait(readers).unwrap_or_else(PoisonError::into_inner);
    }
    *readers -= 1;
    drop(readers);
    Pattern::default().check(stream, bytes)?;
    Ok(stream.write_all(b"!")?)
}

/// Lets one of those begin who wait in [`read`], or the next one.
pub fn begin() {
    *READERS.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    READERS.1.notify_one();
}

/// Counts what the stream has taken.
struct Counting {
    stream: Box<dyn Duplex>,
    written: Arc<AtomicU64>,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.stream.write(bytes)?;
        self.written.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
