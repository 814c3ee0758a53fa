//! Events on a byte stream: four bytes of length, little-endian, then that many bytes of postcard.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::plan::Event;

/// Longest frame that is read; what is collected from a step is far smaller.
const LONGEST: u32 = 256 << 20;

/// What the agent sends: which step (counted from 0), and what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The step.
    pub step: u32,
    /// What happened.
    pub event: Event,
}

/// Writes a frame.
pub fn write(to: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let body = postcard::to_stdvec(frame).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).ok().filter(|len| *len <= LONGEST);
    let len = len.ok_or_else(|| io::Error::other(format!("frame of {} bytes is too long", body.len())))?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(&body)?;
    to.flush()
}

/// Reads a frame; none at the end of the stream.
pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut len = [0; 4];
    match from.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_le_bytes(len);
    if len > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {len} bytes is too long")));
    }
    let mut body = Vec::new();
    from.take(len.into()).read_to_end(&mut body)?;
    postcard::from_bytes(&body).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_back(steps in proptest::collection::vec((any::<u32>(), any::<Vec<u8>>()), 0..8)) {
            let frames: Vec<Frame> =
                steps.into_iter().map(|(step, bytes)| Frame { step, event: Event::Stdout(bytes) }).collect();
            let mut stream = Vec::new();
            for frame in &frames {
                write(&mut stream, frame).unwrap();
            }
            let mut rest = stream.as_slice();
            for frame in &frames {
                let back = read(&mut rest).unwrap();
                prop_assert_eq!(back.as_ref(), Some(frame));
            }
            prop_assert_eq!(read(&mut rest).unwrap(), None);
        }

        #[test]
        fn garbage_is_an_error_or_the_end(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while let Ok(Some(_)) = read(&mut rest) {}
        }
    }
}
