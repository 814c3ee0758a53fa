//! Port I/O, as the library sees it.

/// The machine's I/O ports.
pub trait Ports {
    /// Reads a byte.
    fn read_u8(&mut self, port: u16) -> u8;
    /// Writes a byte.
    fn write_u8(&mut self, port: u16, value: u8);
    /// Writes two bytes.
    fn write_u16(&mut self, port: u16, value: u16);
}

#[cfg(test)]
pub mod fake {
    //! Ports that remember what was written to them.

    use std::collections::HashMap;
    use std::string::String;
    use std::vec::Vec;

    use super::Ports;
    use crate::serial::{LINE_STATUS, TRANSMITTER_EMPTY};

    /// A write: port and value.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Access {
        /// Of a byte.
        U8(u16, u8),
        /// Of two bytes.
        U16(u16, u16),
    }

    impl Access {
        /// The port.
        pub fn port(self) -> u16 {
            match self {
                Self::U8(port, _) | Self::U16(port, _) => port,
            }
        }
    }

    /// Ports that read as set, or all ones.
    #[derive(Default)]
    pub struct Fake {
        /// What ports read as.
        pub reads: HashMap<u16, u8>,
        /// How often a port was read.
        pub read_count: usize,
        /// All writes, in order.
        pub log: Vec<Access>,
    }

    impl Fake {
        /// With a UART that is always ready.
        pub fn with_uart() -> Self {
            Self { reads: [(LINE_STATUS, TRANSMITTER_EMPTY)].into(), ..Self::default() }
        }

        /// What was transmitted: writes to the data register while the divisor latch was closed.
        pub fn serial_output(&self) -> String {
            let mut latch = false;
            let mut output = Vec::new();
            for access in &self.log {
                match *access {
                    Access::U8(0x3fb, value) => latch = value & 0x80 != 0,
                    Access::U8(0x3f8, value) if !latch => output.push(value),
                    _ => {}
                }
            }
            String::from_utf8_lossy(&output).into_owned()
        }
    }

    impl Ports for Fake {
        fn read_u8(&mut self, port: u16) -> u8 {
            self.read_count += 1;
            self.reads.get(&port).copied().unwrap_or(0xff)
        }

        fn write_u8(&mut self, port: u16, value: u8) {
            self.log.push(Access::U8(port, value));
        }

        fn write_u16(&mut self, port: u16, value: u16) {
            self.log.push(Access::U16(port, value));
        }
    }
}
