//! The machine as the library sees it: ports, memory, and memory-mapped registers.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The machine.
///
/// Addresses are physical. Of memory, the first 2 MiB and the ROM can be reached at once, everything else below 4 GiB
/// after [`Machine::map`]; devices reach all of it at any time.
pub trait Machine {
    /// Reads a byte from a port.
    fn in_u8(&mut self, port: u16) -> u8;
    /// Reads two bytes from a port.
    fn in_u16(&mut self, port: u16) -> u16;
    /// Reads four bytes from a port.
    fn in_u32(&mut self, port: u16) -> u32;
    /// Writes a byte to a port.
    fn out_u8(&mut self, port: u16, value: u8);
    /// Writes two bytes to a port.
    fn out_u16(&mut self, port: u16, value: u16);
    /// Writes four bytes to a port. What was written to memory before is there when a device looks, and what a device
    /// writes to memory meanwhile is read afterwards.
    fn out_u32(&mut self, port: u16, value: u32);
    /// Reads `len` times a byte from a port, into memory.
    fn in_bytes(&mut self, port: u16, to: u64, len: usize);

    /// Makes a range below 4 GiB reachable.
    fn map(&mut self, addr: u64, len: u64);
    /// Reads a value from memory, aligned or not.
    fn read<T: FromBytes>(&self, addr: u64) -> T;
    /// Writes a value to memory, aligned or not.
    fn write<T: IntoBytes + Immutable>(&mut self, addr: u64, value: T);
    /// Memory, until it is written the next time.
    fn bytes(&self, addr: u64, len: usize) -> &[u8];
    /// Writes bytes to memory.
    fn write_bytes(&mut self, addr: u64, bytes: &[u8]);
    /// Copies memory to where it does not overlap.
    fn copy(&mut self, from: u64, to: u64, len: usize);
    /// Writes a value `count` times. This works at address 0, too.
    fn fill_u32(&mut self, addr: u64, value: u32, count: usize);
    /// Writes zeros to memory.
    fn clear(&mut self, addr: u64, len: usize);

    /// Reads a byte from a device's register.
    fn mmio_read_u8(&mut self, addr: u64) -> u8;
    /// Reads two bytes from a device's register.
    fn mmio_read_u16(&mut self, addr: u64) -> u16;
    /// Reads four bytes from a device's register.
    fn mmio_read_u32(&mut self, addr: u64) -> u32;
    /// Writes a byte to a device's register.
    fn mmio_write_u8(&mut self, addr: u64, value: u8);
    /// Writes two bytes to a device's register.
    fn mmio_write_u16(&mut self, addr: u64, value: u16);
    /// Writes four bytes to a device's register.
    fn mmio_write_u32(&mut self, addr: u64, value: u32);
}
