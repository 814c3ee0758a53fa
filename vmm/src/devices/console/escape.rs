//! Keys that are for us and not for the guest, in a raw terminal.

/// `Ctrl-A`.
const PREFIX: u8 = 0x01;

/// What `Ctrl-A h` shows.
pub const HELP: &str =
    "\r\nCtrl-A x  end the VM\r\nCtrl-A h  this text\r\nCtrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

/// Remembers whether the last key was the prefix.
#[derive(Debug, Default)]
pub struct Escape {
    prefixed: bool,
}

/// What a key comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// For the guest.
    Guest(u8),
    /// Nothing yet, or nothing at all.
    None,
    /// Show [`HELP`].
    Help,
    /// End the VM.
    End,
}

impl Escape {
    /// Takes one byte of input.
    pub fn key(&mut self, byte: u8) -> Key {
        let prefixed = std::mem::replace(&mut self.prefixed, false);
        match (prefixed, byte) {
            (false, PREFIX) => {
                self.prefixed = true;
                Key::None
            }
            (false, _) | (true, PREFIX) => Key::Guest(byte),
            (true, b'x' | b'X') => Key::End,
            (true, b'h' | b'H' | b'?') => Key::Help,
            (true, _) => Key::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let mut escape = Escape::default();
        let keys: Vec<_> =
            b"a\x01x\x01h\x01\x01\x01qb".iter().map(|&b| escape.key(b)).filter(|&k| k != Key::None).collect();
        assert_eq!(keys, [Key::Guest(b'a'), Key::End, Key::Help, Key::Guest(1), Key::Guest(b'b')]);
    }
}
