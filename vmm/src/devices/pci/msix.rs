//! MSI-X (PCI Local Bus 3.0, 6.8.2): a table of messages, each of which can be masked, and what is pending.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::interrupt::{Message, Messages};

/// No vector (virtio 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;
/// Bytes of a table entry.
const ENTRY: usize = 16;
/// Vector control: masked. It is so after a reset.
const MASKED: u32 = 1 << 0;
/// Message control: the function's vectors are on; all are masked.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;

/// The table of one function.
pub struct Msix {
    table: Mutex<MsixState>,
    messages: Box<dyn Messages>,
}

/// One vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Vector {
    message: Message,
    control: u32,
    pending: bool,
}

/// What of the table goes into a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    vectors: Vec<Vector>,
    control: u16,
}

impl Msix {
    /// A table of `count` vectors, whose messages go to `messages`.
    #[must_use]
    pub fn new(count: u16, messages: Box<dyn Messages>) -> Self {
        let vector = Vector { message: Message::default(), control: MASKED, pending: false };
        let table = MsixState { vectors: vec![vector; count.into()], control: 0 };
        Self { table: Mutex::new(table), messages }
    }

    fn table(&self) -> MutexGuard<'_, MsixState> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of vectors.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.table().vectors.len() as u16
    }

    /// Interrupts by a vector, now or when it is unmasked.
    pub fn raise(&self, vector: u16) {
        let table = &mut *self.table();
        let masked = table.control & FUNCTION_MASK != 0;
        if table.control & ENABLE == 0 {
            return;
        }
        if let Some(entry) = table.vectors.get_mut(usize::from(vector)) {
            if masked || entry.control & MASKED != 0 {
                entry.pending = true;
            } else {
                self.messages.send(vector, entry.message);
            }
        }
    }

    /// The guest has written the message control word of the capability.
    pub fn set_control(&self, control: u16) {
        let table = &mut *self.table();
        table.control = control & (ENABLE | FUNCTION_MASK);
        self.flush(table);
    }

    /// Sends what was pending and no longer has to be.
    fn flush(&self, table: &mut MsixState) {
        if table.control & (ENABLE | FUNCTION_MASK) != ENABLE {
            return;
        }
        for (entry, vector) in table.vectors.iter_mut().zip(0..) {
            if entry.control & MASKED == 0 && std::mem::take(&mut entry.pending) {
                self.messages.send(vector, entry.message);
            }
        }
    }

    /// Reads the table, in units of four or eight bytes.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let table = self.table();
        for (unit, at) in data.chunks_exact_mut(4).zip((offset as usize..).step_by(4)) {
            let Some(Vector { message, control, pending: _ }) = table.vectors.get(at / ENTRY) else { return };
            let value = match at % ENTRY {
                0 => message.address as u32,
                4 => (message.address >> 32) as u32,
                8 => message.data,
                12 => *control,
                _ => return,
            };
            unit.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes the table, in units of four or eight bytes.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let table = &mut *self.table();
        for (unit, at) in data.chunks_exact(4).zip((offset as usize..).step_by(4)) {
            let Some(Vector { message, control, pending: _ }) = table.vectors.get_mut(at / ENTRY) else {
                return;
            };
            let value = u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]);
            match at % ENTRY {
                0 => message.address = message.address & !0xffff_ffff | u64::from(value & !3),
                4 => message.address = message.address & 0xffff_ffff | u64::from(value) << 32,
                8 => message.data = value,
                12 => *control = value & MASKED,
                _ => return,
            }
        }
        self.flush(table);
    }

    /// Reads the array of pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let table = self.table();
        for (byte, at) in data.iter_mut().zip(offset as usize..) {
            let pending = |bit: usize| table.vectors.get(8 * at + bit).is_some_and(|entry| entry.pending);
            *byte = (0..8).fold(0, |bits, bit| bits | u8::from(pending(bit)) << bit);
        }
    }

    /// The table, for saved state.
    #[must_use]
    pub fn save(&self) -> MsixState {
        self.table().clone()
    }

    /// Takes back what [`Msix::save`] gave; whether it can be this table's.
    pub fn restore(&self, saved: MsixState) -> bool {
        let mut table = self.table();
        let fits = saved.vectors.len() == table.vectors.len();
        if fits {
            *table = saved;
        }
        fits
    }
}
