//! From standard input to the guest's console.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::stdio::stdin;
use rustix::termios::isatty;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::escape::{Escape, HELP, Key};
use super::{ConsoleOutput, Terminal, sink};
use crate::devices::event_loop::{Descriptors, Source};

/// Token of the event that the port has room.
const ROOM: u32 = 0;
/// Token of the event that there is input.
const INPUT: u32 = 1;

/// Keys that wait at most for a guest that does not take them; what is typed beyond is lost.
const TYPED_AHEAD: usize = 64 << 10;

/// What takes input for the guest.
pub trait InputPort: Send + Sync {
    /// Bytes that it can take now; none while the guest does not listen.
    fn input_room(&self) -> usize;

    /// Readable when the guest has read all input, or begun to listen.
    fn room_event(&self) -> &Arc<EventFd>;

    /// Takes input; no more than [`InputPort::input_room`] bytes.
    fn input(&self, bytes: &[u8]);

    /// The terminal has this many columns and rows; not every port can tell.
    fn resize(&self, _columns: u16, _rows: u16) {}
}

/// Reads as much as the port has room for; the rest waits in the pipe. From a terminal it reads everything, since
/// the keys that end the VM must not wait for the guest.
pub struct InputPump {
    /// `None` after the end of the input.
    input: Option<File>,
    /// Listens to `input`; off while the port has no room, and never on for a regular file, which cannot be
    /// waited for and need not be.
    listening: bool,
    port: Arc<dyn InputPort>,
    output: ConsoleOutput,
    escape: Option<Escape>,
    /// What was typed, and has no room in the port.
    typed: VecDeque<u8>,
    end: Box<dyn Fn() + Send>,
}

impl InputPump {
    /// Feeds `port` from standard input. In a terminal, keys that are for us are answered on `output`, or by
    /// `end`, which has to end the VM.
    pub fn new(
        port: Arc<dyn InputPort>,
        output: ConsoleOutput,
        end: Box<dyn Fn() + Send>,
    ) -> io::Result<Self> {
        let terminal = isatty(stdin());
        let input = if terminal && !Terminal::is_foreground() {
            None
        } else {
            Some(match sink::reopen(stdin(), OFlags::RDONLY) {
                // A regular file opened anew would be read from its start again.
                Ok(own) if own.metadata()?.file_type().is_file() => shared()?,
                Ok(own) => own,
                Err(_) => shared()?,
            })
        };
        let escape = terminal.then(Escape::default);
        Ok(Self { input, listening: false, port, output, escape, typed: VecDeque::new(), end })
    }

    /// Reads once if the input is listened to, since another read might block; else until it ends or the port is
    /// full.
    fn pump(&mut self) -> Pumped {
        let mut buffer = [0; 256];
        loop {
            let room = if self.escape.is_some() { buffer.len() } else { self.port.input_room() };
            if room == 0 {
                return Pumped::PortFull;
            }
            let room = room.min(buffer.len());
            let Some(input) = &mut self.input else { return Pumped::InputEnded };
            match input.read(&mut buffer[..room]) {
                Ok(0) => return Pumped::InputEnded,
                Ok(count) => self.deliver(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Pumped::InputEmpty,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // We were put into the background.
                Err(_) if self.escape.is_some() && !Terminal::is_foreground() => return Pumped::NotOurs,
                Err(_) => return Pumped::InputEnded,
            }
            if self.listening {
                return Pumped::InputEmpty;
            }
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let Some(escape) = &mut self.escape else { return self.port.input(bytes) };
        for &byte in bytes {
            match escape.key(byte) {
                Key::Guest(byte) if self.typed.len() < TYPED_AHEAD => self.typed.push_back(byte),
                Key::Guest(_) => {}
                Key::None => {}
                Key::Help => {
                    let _ = self.output.write_all(HELP.as_bytes());
                }
                Key::End => (self.end)(),
            }
        }
        self.pass_on();
    }

    /// Gives the guest what was typed, as far as there is room.
    fn pass_on(&mut self) {
        let room = self.port.input_room().min(self.typed.len());
        let bytes: Vec<u8> = self.typed.drain(..room).collect();
        self.port.input(&bytes);
    }
}

/// Why pumping stopped.
enum Pumped {
    PortFull,
    InputEmpty,
    InputEnded,
    /// Until the port's room is signalled again.
    NotOurs,
}

fn shared() -> io::Result<File> {
    Ok(stdin().as_fd().try_clone_to_owned()?.into())
}

impl Source for InputPump {
    fn begin(&mut self, descriptors: &mut dyn Descriptors) {
        // A worker that cannot listen at all would have failed before.
        let _ = descriptors.add(self.port.room_event().as_raw_fd(), ROOM, EventSet::IN);
        self.process(ROOM, EventSet::empty(), descriptors);
    }

    fn process(&mut self, token: u32, _events: EventSet, descriptors: &mut dyn Descriptors) {
        let is_room = token == ROOM;
        if is_room {
            let _ = self.port.room_event().read();
            self.pass_on();
        }
        let Some(input) = &self.input else { return };
        let input = input.as_raw_fd();
        if !self.listening {
            self.listening = descriptors.add(input, INPUT, EventSet::IN).is_ok();
        }
        if is_room && self.listening {
            return;
        }
        let pumped = self.pump();
        if self.listening && !matches!(pumped, Pumped::InputEmpty) {
            descriptors.remove(input);
            self.listening = false;
        }
        if matches!(pumped, Pumped::InputEnded) {
            self.input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::BusDevice;
    use crate::devices::legacy::SerialPort;
    use crate::interrupt::CountingLine;
    use std::sync::mpsc;

    #[test]
    fn a_guest_that_does_not_listen_can_be_ended() {
        let output = ConsoleOutput::new().unwrap();
        let port = Arc::new(SerialPort::new(Arc::new(CountingLine::default()), output.clone()).unwrap());
        let (ended, end) = mpsc::channel();
        let (listening, escape, typed) = (false, Some(Escape::default()), VecDeque::new());
        let end_vm = Box::new(move || ended.send(()).unwrap());
        let (shared, input) = (Arc::clone(&port) as Arc<dyn InputPort>, None);
        let mut pump = InputPump { input, listening, port: shared, output, escape, typed, end: end_vm };
        pump.deliver(b"hello");
        pump.deliver(&vec![b'.'; 2 * TYPED_AHEAD]);
        pump.deliver(b"\x01x");
        end.try_recv().unwrap();
        assert_eq!(pump.typed.len(), TYPED_AHEAD);

        // It begins to listen: what was typed is there.
        port.write(1, &[1]);
        pump.pass_on();
        let read = || {
            let mut byte = [0];
            port.read(0, &mut byte);
            byte[0]
        };
        assert_eq!([(); 5].map(|()| read()), *b"hello");
    }
}
