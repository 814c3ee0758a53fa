//! Keys that a configuration file may have, as serde knows them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// The names of `T`'s fields, in their order; none if `T` is no struct that reads its fields by name.
pub(crate) fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    match T::deserialize(Spy) {
        Err(Fields(names)) => names,
        Ok(_) => &[],
    }
}

/// The known key that looks most like `key`, if one looks much like it.
pub(super) fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    // As clap does for flags, so that both suggest alike.
    const ALIKE: f64 = 0.7;
    let score = |name: &&str| strsim::jaro(&key.replace('_', "-"), &name.replace('_', "-"));
    known
        .iter()
        .map(|name| (score(name), *name))
        .filter(|(score, _)| *score > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A deserializer without data: it only learns what fields it is asked for, and fails with them.
struct Spy;

#[derive(Debug)]
struct Fields(&'static [&'static str]);

impl<'de> Deserializer<'de> for Spy {
    type Error = Fields;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fields> {
        Err(Fields(fields))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fields> {
        Err(Fields(&[]))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl de::Error for Fields {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the fields are {:?}", self.0)
    }
}

impl std::error::Error for Fields {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawMemory;

    #[test]
    fn fields_are_those_of_serde() {
        assert_eq!(fields::<RawMemory>(), ["size", "huge", "prealloc", "shared"]);
        assert!(fields::<u8>().is_empty());
    }

    #[test]
    fn nearness() {
        let known = ["kernel", "timeline", "timeline-origin"];
        for (key, expected) in [
            ("kernle", Some("kernel")),
            ("timeline_origin", Some("timeline-origin")),
            ("timelime", Some("timeline")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(key, &known), expected, "{key}");
        }
    }
}
