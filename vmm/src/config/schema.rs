//! JSON schemas of what serde reads by hand.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema, schema_for};

use super::{RawConfig, RawMemory};

/// The JSON schema of a configuration file, as text.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", schema_for!(RawConfig).to_value())
}

/// A value that may be quoted or not.
pub(super) fn text_or_number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "integer", "null"] })
}

/// Memory, short or as a table.
pub(super) fn memory(generator: &mut SchemaGenerator) -> Schema {
    let table = generator.subschema_for::<RawMemory>();
    json_schema!({ "anyOf": [ { "type": ["string", "integer", "null"] }, table ] })
}

/// A device, as text or as a table.
pub(super) struct Device<T>(std::marker::PhantomData<T>);

impl<T: JsonSchema> JsonSchema for Device<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrText", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [ { "type": "string" }, table ] })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::keys::fields;

    #[test]
    fn describes_every_key_and_no_other() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        for (at, mut known) in [
            ("/properties", fields::<RawConfig>().to_vec()),
            ("/$defs/RawMemory/properties", fields::<RawMemory>().to_vec()),
        ] {
            let properties = schema.pointer(at).unwrap().as_object().unwrap();
            known.sort_unstable();
            assert_eq!(properties.keys().collect::<Vec<_>>(), known);
            for (key, property) in properties {
                assert!(property.get("description").is_some(), "{at}/{key}");
            }
        }
        assert_eq!(schema.pointer("/additionalProperties"), Some(&Value::Bool(false)));
    }
}
