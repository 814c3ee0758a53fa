//! From standard input to the guest's serial port.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::fs::OFlags;
use rustix::stdio::stdin;
use rustix::termios::isatty;

use super::escape::{Escape, HELP, Key};
use super::{ConsoleOutput, Terminal, sink};
use crate::devices::legacy::SerialPort;
use crate::devices::worker::Source;

/// Reads as much as the port has room for; the rest waits in the pipe or terminal.
pub struct InputPump {
    /// `None` after the end of the input.
    input: Option<File>,
    /// Listens to `input`; off while the port has no room, and never on for a regular file, which cannot be
    /// waited for and need not be.
    listening: bool,
    port: Arc<SerialPort>,
    output: ConsoleOutput,
    escape: Option<Escape>,
    end: Box<dyn Fn() + Send>,
}

impl InputPump {
    /// Feeds `port` from standard input. In a terminal, keys that are for us are answered on `output`, or by
    /// `end`, which has to end the VM.
    pub fn new(port: Arc<SerialPort>, output: ConsoleOutput, end: Box<dyn Fn() + Send>) -> io::Result<Self> {
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
        Ok(Self { input, listening: false, port, output, escape, end })
    }

    /// Reads once if the input is listened to, since another read might block; else until it ends or the port is
    /// full.
    fn pump(&mut self) -> Pumped {
        let mut buffer = [0; 256];
        loop {
            let room = self.port.input_room().min(buffer.len());
            if room == 0 {
                return Pumped::PortFull;
            }
            let Some(input) = &mut self.input else { return Pumped::InputEnded };
            match input.read(&mut buffer[..room]) {
                Ok(0) => return Pumped::InputEnded,
                Ok(count) => self.deliver(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Pumped::InputEmpty,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
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
                Key::Guest(byte) => self.port.input(&[byte]),
                Key::None => {}
                Key::Help => {
                    let _ = self.output.write_all(HELP.as_bytes());
                }
                Key::End => (self.end)(),
            }
        }
    }
}

/// Why pumping stopped.
enum Pumped {
    PortFull,
    InputEmpty,
    InputEnded,
}

fn shared() -> io::Result<File> {
    Ok(stdin().as_fd().try_clone_to_owned()?.into())
}

impl MutEventSubscriber for InputPump {
    fn init(&mut self, ops: &mut EventOps) {
        // A worker that cannot listen at all would have failed before.
        let _ = ops.add(Events::new(self.port.room_event().as_ref(), EventSet::IN));
        self.process(Events::empty(self.port.room_event().as_ref()), ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let room = self.port.room_event();
        let is_room = events.fd() == room.as_raw_fd();
        if is_room {
            let _ = room.read();
        }
        let Some(input) = &self.input else { return };
        let of_input = Events::new(input, EventSet::IN);
        if !self.listening {
            self.listening = ops.add(of_input).is_ok();
        }
        if is_room && self.listening {
            return;
        }
        let pumped = self.pump();
        if self.listening && !matches!(pumped, Pumped::InputEmpty) {
            let _ = ops.remove(of_input);
            self.listening = false;
        }
        if matches!(pumped, Pumped::InputEnded) {
            self.input = None;
        }
    }
}

impl Source for InputPump {}
