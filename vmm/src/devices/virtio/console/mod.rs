//! The console device (5.3): port 0 is the console, with input; further ports, each by its name, take output.

mod input;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::scatter::copy_out;
use super::{Chain, Context, DeviceKind, Error, Rings, VirtioDevice, read_bytes};
use crate::devices::console::ConsoleOutput;
use crate::state::{self, Saved};
pub use input::ConsoleInput;

/// The configuration space tells the terminal's size.
const F_SIZE: u32 = 0;
/// There are several ports, and two queues for messages about them.
const F_MULTIPORT: u32 = 1;
/// A byte can be written before any queue is there.
const F_EMERG_WRITE: u32 = 2;
/// Offset of that byte in the configuration space.
const EMERG_WRITE: u64 = 8;
/// Queues: input and output of port 0, messages either way, then two for each further port.
const INPUT: u16 = 0;
const OUTPUT: u16 = 1;
const TO_DRIVER: u16 = 2;
const FROM_DRIVER: u16 = 3;
const QUEUE_SIZE: u16 = 64;
/// Bytes of one chain that are written out; what a chain has beyond is lost.
const MOST: usize = 1 << 20;
const CHUNK: usize = 4096;
/// Ports that there can be.
pub const MAX_PORTS: usize = 16;

/// Messages about ports (5.3.6.2).
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Control {
    id: U32,
    event: U16,
    value: U16,
}

/// A port's near end: what the guest writes there.
#[derive(Debug)]
pub struct Port {
    /// How the guest finds it (`/sys/class/virtio-ports/*/name`); the console's own is empty.
    pub name: String,
    /// Where its output goes.
    pub output: ConsoleOutput,
}

/// The device.
pub struct Console {
    ports: Vec<Port>,
    input: Arc<ConsoleInput>,
    sizes: Vec<u16>,
    state: ConsoleState,
}

/// What of it goes into a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ConsoleState {
    columns: u16,
    rows: u16,
    /// For each port, the messages that the driver has yet to get, a bit each by their numbers.
    owed: Vec<u8>,
    /// What was typed and not yet read.
    typed: Vec<u8>,
}

impl Saved for ConsoleState {
    const NAME: &'static str = "virtio console";
    const VERSION: u16 = 1;
}

impl Console {
    /// A console that writes to the first of `ports` and reads from `input`; at most [`MAX_PORTS`] in all.
    #[must_use]
    pub fn new(ports: Vec<Port>, input: Arc<ConsoleInput>) -> Self {
        let queues = if ports.len() > 1 { 2 * ports.len() + 2 } else { 2 };
        let state = ConsoleState { owed: vec![0; ports.len()], ..ConsoleState::default() };
        Self { ports, input, sizes: vec![QUEUE_SIZE; queues], state }
    }

    /// The port of a queue for output.
    fn port_of(queue: u16) -> usize {
        if queue == OUTPUT { 0 } else { usize::from(queue) / 2 - 1 }
    }

    fn transmit(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        let Some(port) = self.ports.get_mut(Self::port_of(queue)) else { return Ok(()) };
        cx.serve(queue, |chain| {
            let mut left = MOST;
            for buffer in &chain.readable {
                let mut at = 0;
                while at < buffer.len() && left > 0 {
                    let mut chunk = [0; CHUNK];
                    let len = CHUNK.min(buffer.len() - at).min(left);
                    let part = buffer.subslice(at, len).map_err(|_| Error::Request("no such buffer"))?;
                    part.copy_to(&mut chunk[..len]);
                    // Never fails: what there is no room for is counted as lost.
                    let _ = port.output.write(&chunk[..len]);
                    (at, left) = (at + len, left - len);
                }
            }
            Ok(0)
        })
    }

    /// Moves what was typed into the driver's buffers.
    fn feed(&mut self, cx: &mut Rings<'_>) -> Result<(), Error> {
        while !self.input.is_empty() {
            match cx.pop(INPUT)? {
                Some(chain) => {
                    let written = write(&chain, |room| self.input.take(room));
                    cx.push(INPUT, chain.head, written)?;
                }
                None if cx.listen(INPUT)? => {}
                None => break,
            }
        }
        cx.notify(INPUT)
    }

    /// Sends the driver the messages that it has yet to get.
    fn tell(&mut self, cx: &mut Rings<'_>) -> Result<(), Error> {
        while let Some(port) = self.state.owed.iter().position(|&owed| owed != 0) {
            let chain = match cx.pop(TO_DRIVER)? {
                Some(chain) => chain,
                None if cx.listen(TO_DRIVER)? => continue,
                None => break,
            };
            let event = self.state.owed[port].trailing_zeros() as u16;
            self.state.owed[port] &= self.state.owed[port] - 1;
            let message = Control { id: U32::new(port as u32), event: event.into(), value: 1.into() };
            let mut bytes = message.as_bytes().to_vec();
            if event == PORT_NAME {
                bytes.extend(self.ports[port].name.as_bytes());
            }
            let written = write(&chain, |room| {
                let rest = bytes.split_off(room.min(bytes.len()));
                std::mem::replace(&mut bytes, rest)
            });
            cx.push(TO_DRIVER, chain.head, written)?;
        }
        cx.notify(TO_DRIVER)
    }

    /// Takes what the driver says about ports. A message that makes no sense changes nothing.
    fn hear(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let owed = &mut self.state.owed;
        cx.serve(FROM_DRIVER, |chain| {
            let mut bytes = [0; size_of::<Control>()];
            if copy_out(&chain.readable, 0, &mut bytes) < bytes.len() {
                return Ok(0);
            }
            let Ok(message) = Control::read_from_bytes(&bytes) else { return Ok(0) };
            let all = |events: &[u16]| events.iter().fold(0, |bits, event| bits | 1 << event);
            match (message.event.get(), message.value.get(), owed.get_mut(message.id.get() as usize)) {
                (DEVICE_READY, 1, _) => owed.fill(all(&[DEVICE_ADD])),
                (PORT_READY, 1, Some(owed)) if message.id == 0 => *owed |= all(&[CONSOLE_PORT, PORT_OPEN]),
                (PORT_READY, 1, Some(owed)) => *owed |= all(&[PORT_OPEN, PORT_NAME]),
                _ => {}
            }
            Ok(0)
        })?;
        self.tell(cx)
    }

    fn config(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&self.state.columns.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.state.rows.to_le_bytes());
        bytes[4..].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        bytes
    }
}

/// Fills a chain's buffers with what `take` gives for the room there is; the bytes written.
fn write(chain: &Chain<'_>, mut take: impl FnMut(usize) -> Vec<u8>) -> u32 {
    let mut written = 0;
    for buffer in &chain.writable {
        let bytes = take(buffer.len());
        buffer.copy_from(&bytes);
        written += bytes.len() as u32;
        if bytes.len() < buffer.len() {
            break;
        }
    }
    written
}

impl VirtioDevice for Console {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        1 << F_SIZE | 1 << F_EMERG_WRITE | u64::from(self.ports.len() > 1) << F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    /// Linux waits in a loop until its console's output is taken, and does not for other ports.
    fn is_immediate(&self, queue: u16) -> bool {
        queue == OUTPUT
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (EMERG_WRITE, [byte, ..], Some(port)) = (offset, data, self.ports.first_mut()) {
            // As for any output.
            let _ = port.output.write(&[*byte]);
        }
    }

    fn activate(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.input.listen(true);
        // Fails only for a descriptor that is watched already, and this one is not.
        let _ = cx.watch(self.input.ready(), 0, EventSet::IN | EventSet::EDGE_TRIGGERED);
        Ok(())
    }

    fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
        match queue {
            INPUT => self.feed(cx),
            TO_DRIVER => self.tell(cx),
            FROM_DRIVER => self.hear(cx),
            // Further ports have no input: their buffers wait.
            _ if queue.is_multiple_of(2) => Ok(()),
            _ => self.transmit(cx, queue),
        }
    }

    fn process_event(&mut self, cx: &mut Context<'_>, _token: u32, _events: EventSet) -> Result<(), Error> {
        if let Some((columns, rows)) = self.input.take_size() {
            (self.state.columns, self.state.rows) = (columns, rows);
            cx.config_changed();
        }
        self.feed(cx)
    }

    fn reset(&mut self) {
        self.input.listen(false);
        self.state.owed.fill(0);
    }

    fn save(&self) -> Vec<u8> {
        state::encode(&ConsoleState { typed: self.input.save(), ..self.state.clone() })
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), state::Error> {
        let state: ConsoleState = state::decode(saved)?;
        if state.owed.len() != self.ports.len() {
            return Err(state::Error::Damaged { name: ConsoleState::NAME });
        }
        self.input.restore(&state.typed);
        self.state = ConsoleState { typed: Vec::new(), ..state };
        Ok(())
    }
}
