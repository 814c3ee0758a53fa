//! The first serial port, a 16550 (National Semiconductor PC16550D, section 8), for output.

use core::fmt;

use abi::ports::COM1;

use crate::machine::Machine;

/// Transmitter holding register; with the divisor latch open, the divisor's low byte.
const DATA: u16 = COM1;
/// Interrupt enable; with the divisor latch open, the divisor's high byte.
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const FIFO_CONTROL: u16 = COM1 + 2;
const FIFO_ENABLE_AND_CLEAR: u8 = 0b111;
const LINE_CONTROL: u16 = COM1 + 3;
const EIGHT_BITS_NO_PARITY_ONE_STOP: u8 = 0b11;
const DIVISOR_LATCH: u8 = 1 << 7;
pub(crate) const LINE_STATUS: u16 = COM1 + 5;
pub(crate) const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// What nobody answers with: a UART's line status never has all bits set.
const NO_UART: u8 = 0xff;
/// Of the UART's 115,200 baud clock.
const DIVISOR: u16 = 1;
/// How often to ask whether the transmitter is ready, before the byte is given up. One byte takes 87 µs and an
/// access to a port, which leaves the VM, at least 0.3 µs.
const PATIENCE: u32 = 10_000;

/// The port, set to 115,200 baud, eight bits, no parity, one stop bit.
pub struct Serial<'a, M> {
    machine: &'a mut M,
}

impl<'a, M: Machine> Serial<'a, M> {
    /// Sets the port up.
    pub fn new(machine: &'a mut M) -> Self {
        let [low, high] = DIVISOR.to_le_bytes();
        machine.out_u8(LINE_CONTROL, DIVISOR_LATCH);
        machine.out_u8(DATA, low);
        machine.out_u8(INTERRUPT_ENABLE, high);
        machine.out_u8(LINE_CONTROL, EIGHT_BITS_NO_PARITY_ONE_STOP);
        machine.out_u8(INTERRUPT_ENABLE, 0);
        machine.out_u8(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
        Self { machine }
    }

    /// The port as somebody has set it up.
    pub fn open(machine: &'a mut M) -> Self {
        Self { machine }
    }

    /// Sends one byte when the transmitter is ready; drops it if there is no UART, or a stuck one.
    fn send(&mut self, byte: u8) {
        for _ in 0..PATIENCE {
            match self.machine.in_u8(LINE_STATUS) {
                NO_UART => return,
                status if status & TRANSMITTER_EMPTY != 0 => return self.machine.out_u8(DATA, byte),
                _ => {}
            }
        }
    }
}

impl<M: Machine> fmt::Write for Serial<'_, M> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.send(byte));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Access, Fake};
    use fmt::Write;

    #[test]
    fn sets_the_port_up_before_it_sends() {
        let mut fake = Fake::with_uart();
        Serial::new(&mut fake).write_str("ab").expect("never fails");
        let expected = [
            (0x3fb, 0x80),
            (0x3f8, 1),
            (0x3f9, 0),
            (0x3fb, 0x03),
            (0x3f9, 0),
            (0x3fa, 0x07),
            (0x3f8, b'a'),
            (0x3f8, b'b'),
        ];
        assert_eq!(fake.log, expected.map(|(port, value)| Access::U8(port, value)));
    }

    #[test]
    fn without_a_uart_it_asks_once_a_byte() {
        let mut fake = Fake::default();
        Serial::new(&mut fake).write_str("abc").expect("never fails");
        assert_eq!((fake.serial_output().as_str(), fake.read_count), ("", 3));
    }

    #[test]
    fn a_stuck_uart_holds_nobody_up_for_ever() {
        let mut fake = Fake::default();
        fake.reads.insert(LINE_STATUS, 0);
        Serial::new(&mut fake).write_str("a").expect("never fails");
        assert_eq!((fake.serial_output().as_str(), fake.read_count), ("", PATIENCE as usize));
    }
}
