//! Devices as a user writes them: `key=value,key,…` in a flag, a table or the same text in a file. Their types
//! derive `Deserialize`; this reads it from text.
//!
//! A switch without a value is `on`; a comma in a value is written twice.

mod failed;

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::ValueError;
use super::keys::{fields, nearest};
use super::value::switch;

use failed::Failed;

/// A device as a user writes it. A first part that is only a value is most likely that of its first field.
pub(super) trait Device: DeserializeOwned {
    /// Checks what its fields say together.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Reads a device from the value of its flag.
pub(super) fn parse<T: Device>(text: &str) -> Result<T, ValueError> {
    let parts = split(text);
    match T::deserialize(MapAccessDeserializer::new(Pairs { parts: parts.iter(), value: None })) {
        Ok(device) => match device.check() {
            Ok(()) => Ok(device),
            Err(reason) => Err(ValueError::Pairs { text: text.to_owned(), reason: reason.to_owned() }),
        },
        Err(failed) => Err(refused(text, &parts, fields::<T>(), failed)),
    }
}

/// Why there is no device: a key that there is not, before all else.
fn refused(text: &str, parts: &[String], known: &[&'static str], Failed(reason): Failed) -> ValueError {
    let stranger = parts.iter().position(|part| !known.contains(&key(part).0));
    let reason = stranger.map_or(reason, |index| {
        let is_given = |field: &&'static str| parts.iter().any(|part| key(part).0 == *field);
        let first = known.first().copied().filter(|field| index == 0 && !is_given(field));
        unknown(&parts[index], known, first)
    });
    ValueError::Pairs { text: text.to_owned(), reason }
}

/// The key of a part, and its value.
fn key(part: &str) -> (&str, Option<&str>) {
    part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)))
}

/// What to say of a part whose key is not known: it may be the value of `first`, if that could stand there.
fn unknown(part: &str, known: &[&'static str], first: Option<&'static str>) -> String {
    let (key, value) = key(part);
    let options = known.join(", ");
    let advice = match (value, first, nearest(key, known)) {
        (None, Some(first), _) => format!("did you mean {first}={}?", key.replace(',', ",,")),
        (_, _, Some(near)) => format!("did you mean `{near}`?"),
        (None, _, None) => format!("write a comma in a value twice, or give one of {options}"),
        (Some(_), _, None) => format!("give one of {options}"),
    };
    format!("`{key}` is no option: {advice}")
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

/// The parts, one after the other. What is wrong with a value is said with its key.
struct Pairs<'a> {
    parts: std::slice::Iter<'a, String>,
    value: Option<(&'a str, Option<&'a str>)>,
}

impl<'de> MapAccess<'de> for Pairs<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failed> {
        self.value = self.parts.next().map(|part| key(part));
        self.value.map(|(key, _)| seed.deserialize(key.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        let (key, value) = self.value.take().unwrap_or_default();
        seed.deserialize(Value { key, text: value }).map_err(|failed| failed.of(key))
    }
}

/// The text of one value, which becomes what the field's type asks for.
struct Value<'a> {
    key: &'a str,
    text: Option<&'a str>,
}

impl<'a> Value<'a> {
    /// Only a switch can do without.
    fn text(&self) -> Result<&'a str, Failed> {
        self.text.ok_or_else(|| Failed(format!("a value is missing: write {}=…", self.key)))
    }
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Failed;

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_bool(self.text.map_or(Ok(true), switch).map_err(de::Error::custom)?)
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
        self.text()?.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_str(self.text()?)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

/// Reads one device in a file: a table, or text as its flag takes it.
pub(super) fn one<'de, T: Device, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(OneOrMany(PhantomData, false)).map(|mut all: Vec<T>| all.pop())
}

/// Reads the devices of a kind in a file: an array, or a single one.
pub(super) fn many<'de, T: Device, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(OneOrMany(PhantomData, true))
}

struct OneOrMany<T>(PhantomData<T>, bool);

impl<'de, T: Device> Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or text such as \"key=value,key=value\"")?;
        if self.1 { f.write_str(", or an array of those") } else { Ok(()) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        parse(text).map(|one| vec![one]).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
        let one = T::deserialize(MapAccessDeserializer::new(map))?;
        one.check().map_err(de::Error::custom)?;
        Ok(vec![one])
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

impl<'de, T: Device> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let one = one(deserializer)?;
        one.map(Self).ok_or_else(|| de::Error::custom("this names no device"))
    }
}

#[cfg(test)]
mod tests;
