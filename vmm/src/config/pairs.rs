//! Devices as a user writes them: `key=value,key,…` in a flag, a table or the same text in a file. Their types
//! derive `Deserialize`; this reads it from text.
//!
//! A key without a value is `on`; a comma in a value is written twice.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqAccessDeserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::ValueError;
use super::value::switch;

/// Reads a device from the value of its flag.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ValueError> {
    let pairs = split(text).into_iter().map(|part| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), Value(value.to_owned())),
        None => (part, Value("on".to_owned())),
    });
    T::deserialize(MapDeserializer::new(pairs)).map_err(|Failed(reason)| ValueError::Pairs(reason))
}

/// The parts between single commas.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match parts.last_mut() {
            Some(_) if c == ',' && rest.next_if_eq(&',').is_none() => parts.push(String::new()),
            Some(part) => part.push(c),
            None => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// The text of one value, which becomes what the field's type asks for.
struct Value(String);

impl IntoDeserializer<'_, Failed> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = Failed;

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_bool(switch(&self.0).map_err(de::Error::custom)?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => Err(de::Error::invalid_value(de::Unexpected::Str(&self.0), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.0.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_string(self.0)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

/// Reads one device in a file: a table, or text as its flag takes it.
pub(super) fn one<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(OneOrMany(PhantomData, false)).map(|mut all: Vec<T>| all.pop())
}

/// Reads the devices of a kind in a file: an array, or a single one.
pub(super) fn many<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(OneOrMany(PhantomData, true))
}

struct OneOrMany<T>(PhantomData<T>, bool);

impl<'de, T: DeserializeOwned> Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or text such as \"key=value,key=value\"")?;
        if self.1 { f.write_str(", or an array of those") } else { Ok(()) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        parse(text).map(|one| vec![one]).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
        if !self.1 {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let each = Vec::<Element<T>>::deserialize(SeqAccessDeserializer::new(seq))?;
        Ok(each.into_iter().map(|Element(one)| one).collect())
    }
}

struct Element<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let one = one(deserializer)?;
        one.map(Self).ok_or_else(|| de::Error::custom("this names no device"))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::{many, parse};
    use crate::config::{FileRef, TransportKind};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Lamp {
        path: FileRef,
        #[serde(default)]
        read_only: bool,
        watts: Option<u16>,
        transport: Option<TransportKind>,
    }

    #[derive(Debug, Deserialize)]
    struct House {
        #[serde(deserialize_with = "many")]
        lamp: Vec<Lamp>,
    }

    #[test]
    fn text_and_tables_are_alike() {
        let bright = || Lamp {
            path: FileRef::Path("a,b".into()),
            read_only: true,
            watts: Some(60),
            transport: Some(TransportKind::Pci),
        };
        let dark = || Lamp { path: FileRef::Fd(3), read_only: false, watts: None, transport: None };
        let text = "path=a,,b,read-only,watts=60,transport=pci";
        assert_eq!(parse::<Lamp>(text), Ok(bright()));
        for house in [
            format!("lamp = ['{text}', {{ path = 'fd:3' }}]"),
            "[[lamp]]\npath='a,b'\nread-only=true\nwatts=60\ntransport='pci'\n[[lamp]]\npath='fd:3'"
                .to_owned(),
        ] {
            assert_eq!(toml::from_str::<House>(&house).unwrap().lamp, [bright(), dark()]);
        }
        assert_eq!(toml::from_str::<House>("lamp = 'path=fd:3,read-only=off'").unwrap().lamp, [dark()]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("", "missing field `path`"),
            ("path=a,path=b", "duplicate field `path`"),
            ("path=", "the path is empty: name a file"),
            (
                "path=a,watt=3",
                "unknown field `watt`, expected one of `path`, `read-only`, `watts`, `transport`",
            ),
            ("path=a,watts=x", "invalid value: string \"x\", expected u16"),
            ("path=a,watts=70000", "invalid value: integer `70000`, expected u16"),
            ("path=a,read-only=maybe", "`maybe` is neither on nor off: write one of them"),
            ("path=a,transport=isa", "unknown variant `isa`, expected one of `mmio`, `mmio-cmdline`, `pci`"),
        ] {
            assert_eq!(parse::<Lamp>(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
