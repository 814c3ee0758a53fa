//! A 16550A: vm-superio's model, with output to a [`ConsoleOutput`] and input from the device worker.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents, SerialState};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, Effect};
use crate::devices::console::{ConsoleOutput, InputPort};
use crate::interrupt::InterruptLine;
use crate::state::{self, Saved};

/// How many ports it has.
const LEN: u64 = 8;
/// Registers, and bits in them, that tell whether the guest listens.
const IER: u64 = 1;
const IER_RDA: u8 = 1 << 0;
const IER_ALL: u8 = 0xf;
const IIR: u64 = 2;
const IIR_NONE: u8 = 1 << 0;
const IIR_RDA: u8 = 1 << 2;
const LCR: u64 = 3;
const LCR_DLAB: u8 = 1 << 7;
const MCR: u64 = 4;
const MCR_LOOP: u8 = 1 << 4;
const LSR: u64 = 5;
const LSR_DATA_READY: u8 = 1 << 0;
/// So many reads of the line status in a row are a guest that polls for input. One that sends reads it once a byte,
/// since the transmitter is always ready.
const POLLING: u8 = 16;

struct Line(Arc<dyn InterruptLine>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger()
    }
}

/// Tells the worker that there is room for input again.
struct InputRoom(Arc<EventFd>);

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // Fails only if the counter is at its end, and then the worker has been told often enough.
        let _ = self.0.write(1);
    }
}

type Model = Serial<Line, InputRoom, ConsoleOutput>;

/// Whether the guest listens. A driver that starts empties the receiver: what came before that would be lost. So
/// would be what comes in loopback mode, which drivers use for tests. Linux also tries which interrupts can be enabled
/// (`autoconfig()` in `8250_port.c`): all four, and none again with no access to another register in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Listening {
    now: bool,
    /// All interrupts are enabled, and no other register was accessed since.
    tries: bool,
    status_reads: u8,
    divisor_latch: bool,
    loopback: bool,
}

impl Listening {
    fn takes_input(self) -> bool {
        self.now && !self.loopback
    }

    /// A driver that enabled all interrupts and goes on to another register did not only try them.
    fn access(&mut self, port: u64) {
        self.now |= self.tries && port != IER;
    }

    fn read(&mut self, port: u64) {
        self.access(port);
        self.status_reads = if port == LSR { self.status_reads.saturating_add(1) } else { 0 };
        self.now |= self.status_reads >= POLLING;
    }

    fn write(&mut self, port: u64, value: u8) {
        self.access(port);
        self.status_reads = 0;
        match port {
            LCR => self.divisor_latch = value & LCR_DLAB != 0,
            MCR => self.loopback = value & MCR_LOOP != 0,
            IER if !self.divisor_latch => {
                self.tries = value & IER_ALL == IER_ALL;
                self.now |= value & IER_RDA != 0 && !self.tries;
            }
            _ => {}
        }
    }
}

/// The serial port.
pub struct SerialPort {
    model: Mutex<(Model, Listening)>,
    line: Arc<dyn InterruptLine>,
    output: ConsoleOutput,
    room: Arc<EventFd>,
}

/// The registers of vm-superio's model, for serde: a field that it gains does not compile here.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SerialState")]
struct Registers {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

/// What of it goes into a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SerialPortState {
    #[serde(with = "Registers")]
    registers: SerialState,
    listening: Listening,
}

impl Saved for SerialPortState {
    const NAME: &'static str = "serial port";
    const VERSION: u16 = 2;
}

impl SerialPort {
    /// A port as it is after a reset.
    pub fn new(line: Arc<dyn InterruptLine>, output: ConsoleOutput) -> io::Result<Self> {
        let room = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let model =
            Serial::with_events(Line(Arc::clone(&line)), InputRoom(Arc::clone(&room)), output.clone());
        Ok(Self { model: Mutex::new((model, Listening::default())), line, output, room })
    }

    /// Wakes the worker when the guest has begun to listen.
    fn tell(&self, before: bool, now: bool) {
        if now && !before {
            let _ = self.room.write(1);
        }
    }

    fn model(&self) -> MutexGuard<'_, (Model, Listening)> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputPort for SerialPort {
    fn input_room(&self) -> usize {
        let (model, listening) = &*self.model();
        if listening.takes_input() { model.fifo_capacity() } else { 0 }
    }

    fn room_event(&self) -> &Arc<EventFd> {
        &self.room
    }

    fn input(&self, bytes: &[u8]) {
        // Fails where there is no room (we asked) or where the interrupt cannot be raised; the guest still finds
        // the bytes when it looks.
        let _ = self.model().0.enqueue_raw_bytes(bytes);
    }
}

/// Whether there is input that the guest wants an interrupt for. The model forgets that as soon as the guest has read
/// one byte or the interrupt's cause, and a driver that pauses in the middle would never hear of the rest.
fn has_input(model: &mut Model, listening: Listening) -> bool {
    !listening.divisor_latch
        && model.read(IER as u8) & IER_RDA != 0
        && model.read(LSR as u8) & LSR_DATA_READY != 0
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (model, listening) = &mut *self.model();
        let before = listening.takes_input();
        for (port, byte) in (offset..LEN).zip(data) {
            *byte = model.read(port as u8);
            if port == IIR && *byte & IIR_NONE != 0 && has_input(model, *listening) {
                *byte = (*byte & !IIR_NONE) | IIR_RDA;
            }
            listening.read(port);
        }
        self.tell(before, listening.takes_input());
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let (model, listening) = &mut *self.model();
        let before = listening.takes_input();
        for (port, &byte) in (offset..LEN).zip(data) {
            // Output never fails (it is queued or counted as lost); an interrupt that cannot be raised is one
            // that the guest polls for.
            let _ = model.write(port as u8, byte);
            listening.write(port, byte);
        }
        self.tell(before, listening.takes_input());
        Effect::None
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Self { model: _, line: _, output: _, room: _ } = self;
        let (model, listening) = &*self.model();
        Some(state::encode(&SerialPortState { registers: model.state(), listening: *listening }))
    }

    fn restore(&self, saved: &[u8]) -> Result<(), state::Error> {
        let SerialPortState { registers, listening } = state::decode(saved)?;
        let (line, room) = (Line(Arc::clone(&self.line)), InputRoom(Arc::clone(&self.room)));
        // Refuses state that holds more input than fits.
        let model = Serial::from_state(&registers, line, room, self.output.clone())
            .map_err(|_| state::Error::Damaged { name: SerialPortState::NAME })?;
        *self.model() = (model, listening);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::CountingLine;
    use std::sync::atomic::Ordering;

    fn port() -> (SerialPort, Arc<CountingLine>, ConsoleOutput) {
        let (line, output) = (Arc::new(CountingLine::default()), ConsoleOutput::new().unwrap());
        (SerialPort::new(line.clone(), output.clone()).unwrap(), line, output)
    }

    #[test]
    fn talks_both_ways() {
        let (port, line, output) = port();
        port.write(1, &[0x01]);
        port.input(b"hi");
        assert_eq!(line.0.load(Ordering::SeqCst), 1);
        let mut byte = [0];
        port.read(0, &mut byte);
        assert_eq!(&byte, b"h");
        port.write(0, b"x");
        assert_eq!(output.take(), b"x");
        port.read(0, &mut byte);
        assert_eq!(port.room_event().read().unwrap(), 2, "it listens, and has read all input");
    }

    #[test]
    fn waits_for_a_guest_that_listens() {
        let (port, ..) = port();
        port.write(3, &[0x80]);
        port.write(1, &[0x01]);
        assert_eq!(port.input_room(), 0, "that was the divisor");
        port.write(3, &[0x03]);
        port.write(1, &[0x02]);
        assert_eq!(port.input_room(), 0, "it only sends");
        port.write(1, &[0x05]);
        assert!(port.input_room() > 0);
    }

    #[test]
    fn what_linux_tries_is_not_listening() {
        let (port, ..) = port();
        for value in [0, 0xf, 0] {
            port.write(1, &[value]);
            port.read(1, &mut [0]);
            assert_eq!(port.input_room(), 0, "{value:#x}");
        }
        port.read(0, &mut [0]);
        assert_eq!(port.input_room(), 0, "it empties the receiver");
        port.write(1, &[0xf]);
        port.write(4, &[0xb]);
        assert!(port.input_room() > 0, "a driver that wants them all");
    }

    #[test]
    fn a_guest_that_polls_listens_too() {
        let (port, ..) = port();
        for _ in 0..100 {
            port.read(5, &mut [0]);
            port.write(0, b"x");
        }
        assert_eq!(port.input_room(), 0, "it only sends");
        for _ in 0..POLLING {
            port.read(5, &mut [0]);
        }
        assert!(port.input_room() > 0);
    }

    #[test]
    fn input_waits_for_the_end_of_a_loopback() {
        let (port, ..) = port();
        port.write(1, &[IER_RDA]);
        port.write(4, &[MCR_LOOP]);
        assert_eq!(port.input_room(), 0, "what is taken now is lost, and there is no end of room");
        port.room_event().read().unwrap();
        port.write(4, &[0]);
        assert!(port.input_room() > 0);
        assert_eq!(port.room_event().read().unwrap(), 1, "the worker is told");
    }

    #[test]
    fn input_is_bounded() {
        let (port, ..) = port();
        port.write(1, &[IER_RDA]);
        let room = port.input_room();
        port.input(&vec![b'a'; room]);
        assert_eq!(port.input_room(), 0);
        port.input(b"b");
        assert_eq!(port.model().0.state().in_buffer.len(), room);
    }

    #[test]
    fn input_that_is_left_is_still_a_cause() {
        let (port, line, _) = port();
        let cause = || {
            let mut iir = [0];
            port.read(IIR, &mut iir);
            iir[0] & 0xf
        };
        port.write(IER, &[IER_RDA]);
        assert_eq!(cause(), IIR_NONE);
        port.input(b"abc");
        assert_eq!([cause(), cause()], [IIR_RDA; 2], "as long as there is some");
        for left in [IIR_RDA, IIR_RDA, IIR_NONE] {
            port.read(0, &mut [0]);
            assert_eq!(cause(), left);
        }
        port.write(IER, &[0]);
        port.input(b"d");
        assert_eq!(cause(), IIR_NONE, "not asked for");
        let before = line.0.load(Ordering::SeqCst);
        port.write(IER, &[IER_RDA]);
        assert_eq!(line.0.load(Ordering::SeqCst), before + 1, "asked for when it was there");
    }

    #[test]
    fn state_comes_back() {
        let (first, ..) = port();
        first.write(7, &[0x5a]);
        first.input(b"rest");
        let (second, ..) = port();
        second.restore(&first.save().unwrap()).unwrap();
        assert_eq!(second.save(), first.save());
        let mut data = [0];
        second.read(7, &mut data);
        assert_eq!(data, [0x5a]);
    }

    #[test]
    fn state_that_cannot_be_is_refused() {
        let (port, ..) = port();
        let registers = SerialState { in_buffer: vec![0; 1000], ..port.model().0.state() };
        let state = SerialPortState { registers, listening: Listening::default() };
        assert!(port.restore(&state::encode(&state)).is_err());
    }
}
