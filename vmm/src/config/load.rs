//! Configuration files: TOML or JSON of our own form, or Firecracker's JSON.

use std::io::Read;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{fields, nearest};
use super::{Error, FileRef, Place, RawConfig, RawMemory, firecracker};

/// More than any configuration needs; a file beyond this is the wrong one.
const MAX_BYTES: u64 = 1 << 20;

impl RawConfig {
    /// Reads a configuration file.
    pub fn load(file: &FileRef) -> Result<Self, Error> {
        let failed = |source| Error::Read { file: file.clone(), source };
        let mut bytes = Vec::new();
        file.open().map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::TooLarge { file: file.clone(), limit: MAX_BYTES });
        }
        Self::parse(file, &bytes)
    }

    /// Reads the contents of a configuration file; `file` says whose they are. The form goes by the name's
    /// extension, or else by content: only JSON begins with a brace.
    pub fn parse(file: &FileRef, bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let line = Some(line_of(bytes, e.valid_up_to()));
            Error::NotText(Place { file: file.clone(), line, key: String::new() })
        })?;
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("json") => parse_json(file, text),
            Some("toml") => parse_toml(file, text),
            _ if text.trim_start().starts_with('{') => parse_json(file, text),
            _ => parse_toml(file, text),
        }
    }
}

/// A key in a file.
struct Entry {
    /// Path of the table that it is in.
    table: &'static str,
    key: String,
    /// Where the key begins, in bytes, if known.
    at: Option<usize>,
}

impl Entry {
    fn path(&self) -> String {
        if self.table.is_empty() { self.key.clone() } else { format!("{}.{}", self.table, self.key) }
    }

    /// Where a file has this entry.
    fn place(&self, file: &FileRef, text: &str) -> Place {
        let line = self.at.map(|at| line_of(text.as_bytes(), at));
        Place { file: file.clone(), line, key: self.path() }
    }
}

/// Refuses the first key that is not known.
fn check_keys(file: &FileRef, text: &str, entries: &[Entry]) -> Result<(), Error> {
    let known = |table| if table == MEMORY { fields::<RawMemory>() } else { fields::<RawConfig>() };
    let unknown = entries.iter().filter(|entry| !known(entry.table).contains(&entry.key.as_str()));
    match unknown.min_by_key(|entry| entry.at) {
        None => Ok(()),
        Some(entry) => Err(Error::UnknownKey {
            place: entry.place(file, text),
            nearest: nearest(&entry.key, known(entry.table)),
        }),
    }
}

/// The one key whose value is a table.
const MEMORY: &str = "memory";

fn parse_toml(file: &FileRef, text: &str) -> Result<RawConfig, Error> {
    let mut entries = Vec::new();
    let invalid = |e: &toml::de::Error| {
        let start = e.span().map(|span| span.start);
        let key = start.and_then(|at| key_at(DeTable::parse(text).ok()?.get_ref(), at)).unwrap_or_default();
        let line = start.map(|start| line_of(text.as_bytes(), start));
        Error::Invalid { place: Place { file: file.clone(), line, key }, reason: e.message().to_owned() }
    };
    let document = DeTable::parse(text).map_err(|e| invalid(&e))?;
    list_toml("", document.get_ref(), &mut entries);
    check_keys(file, text, &entries)?;
    RawConfig::deserialize(toml::de::Deserializer::from(document)).map_err(|e| invalid(&e))
}

/// The key that a byte belongs to, with the tables around it, such as `disk[1].queues`.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let own = || key.span().contains(&at).then(String::new);
        path_at(value, at).or_else(own).map(|path| format!("{}{path}", key.get_ref()))
    })
}

/// What of a value a byte belongs to; nothing more is to be said of the value as a whole. Tables of an array are where
/// their headers are, so what is in a value is not always within it.
fn path_at(value: &Spanned<DeValue<'_>>, at: usize) -> Option<String> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => key_at(table, at).map(|path| format!(".{path}")),
        DeValue::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| path_at(item, at).map(|path| format!("[{index}]{path}"))),
        _ => None,
    };
    inner.or_else(|| value.span().contains(&at).then(String::new))
}

fn list_toml(table: &'static str, content: &DeTable<'_>, entries: &mut Vec<Entry>) {
    for (key, value) in content {
        entries.push(Entry { table, key: key.get_ref().to_string(), at: Some(key.span().start) });
        if let (DeValue::Table(inner), "", MEMORY) = (value.get_ref(), table, key.get_ref().as_ref()) {
            list_toml(MEMORY, inner, entries);
        }
    }
}

fn parse_json(file: &FileRef, text: &str) -> Result<RawConfig, Error> {
    let content: Map<String, Value> = read_json(file, text, &Map::new())?;
    if firecracker::recognises(&content) {
        return firecracker::parse(file, text, &content);
    }
    let list = |table, content: &Map<String, Value>| -> Vec<Entry> {
        content.keys().map(|key| Entry { table, key: key.clone(), at: None }).collect()
    };
    let mut entries = list("", &content);
    if let Some(Value::Object(inner)) = content.get(MEMORY) {
        entries.extend(list(MEMORY, inner));
    }
    check_keys(file, text, &entries)?;
    read_json(file, text, &content)
}

/// Reads JSON. An error says the line, and the key if one of those in `content` is to blame, and which of its array.
pub(super) fn read_json<T: DeserializeOwned>(
    file: &FileRef,
    text: &str,
    content: &Map<String, Value>,
) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| {
        let fails_alone = |key: &String, value: &Value| {
            let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            serde_json::from_str::<T>(&alone.to_string()).is_err()
        };
        let which = |key: &String, value: &Value| {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let fails = |item: &Value| fails_alone(key, &Value::Array(vec![item.clone()]));
            items.iter().position(fails).map_or_else(|| key.clone(), |index| format!("{key}[{index}]"))
        };
        let failing = content.iter().find(|(key, value)| fails_alone(key, value));
        let key = failing.map(|(key, value)| which(key, value)).unwrap_or_default();
        let message = e.to_string();
        let position = format!(" at line {} column {}", e.line(), e.column());
        Error::Invalid {
            place: Place { file: file.clone(), line: Some(e.line()), key },
            reason: message.strip_suffix(&position).unwrap_or(&message).to_owned(),
        }
    })
}

/// The line, from 1, of a byte.
fn line_of(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|&&byte| byte == b'\n').count()
}
