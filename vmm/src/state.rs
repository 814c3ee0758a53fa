//! The encoding of saved state: a version, then postcard. Saved types are never the runtime types; each device
//! and vCPU has one of its own.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type that stands in snapshots and migration streams.
pub trait Saved: Serialize + DeserializeOwned {
    /// What the state belongs to, for messages.
    const NAME: &'static str;
    /// Raised with every change of the type's shape.
    const VERSION: u16;
}

/// Saved state that cannot be taken back.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Written by another version of the type.
    #[error("saved state of {name}: version {found}, this build reads {expected}")]
    Version {
        /// [`Saved::NAME`].
        name: &'static str,
        /// The version that stands in the bytes.
        found: u16,
        /// [`Saved::VERSION`].
        expected: u16,
    },
    /// Not what [`encode`] wrote.
    #[error("saved state of {name}: truncated or damaged")]
    Damaged {
        /// [`Saved::NAME`].
        name: &'static str,
    },
}

/// The bytes of `state`: its version as two little-endian bytes, then its fields.
#[must_use]
pub fn encode<T: Saved>(state: &T) -> Vec<u8> {
    let mut bytes = T::VERSION.to_le_bytes().to_vec();
    // Serialisation into a growing vector fails only on types that postcard cannot express at all, which the
    // round-trip test of each type would show.
    if let Ok(fields) = postcard::to_stdvec(state) {
        bytes.extend(fields);
    }
    bytes
}

/// Takes back what [`encode`] gave; every byte has to be used.
pub fn decode<T: Saved>(bytes: &[u8]) -> Result<T, Error> {
    let damaged = Error::Damaged { name: T::NAME };
    let (version, fields) = bytes.split_first_chunk().ok_or(damaged.clone())?;
    let found = u16::from_le_bytes(*version);
    if found != T::VERSION {
        return Err(Error::Version { name: T::NAME, found, expected: T::VERSION });
    }
    match postcard::take_from_bytes(fields) {
        Ok((state, [])) => Ok(state),
        _ => Err(damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lamp {
        on: bool,
        colour: Vec<u8>,
    }

    impl Saved for Lamp {
        const NAME: &'static str = "lamp";
        const VERSION: u16 = 3;
    }

    #[test]
    fn round_trip_and_refusals() {
        let lamp = Lamp { on: true, colour: vec![1, 2, 3] };
        let bytes = encode(&lamp);
        assert_eq!(decode::<Lamp>(&bytes), Ok(lamp));
        let mut other = bytes.clone();
        other[0] = 4;
        assert_eq!(decode::<Lamp>(&other), Err(Error::Version { name: "lamp", found: 4, expected: 3 }));
        for len in 0..bytes.len() {
            assert!(decode::<Lamp>(&bytes[..len]).is_err(), "{len}");
        }
        other.clone_from(&bytes);
        other.push(0);
        assert_eq!(decode::<Lamp>(&other), Err(Error::Damaged { name: "lamp" }));
    }
}
