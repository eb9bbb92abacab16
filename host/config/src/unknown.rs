//! All keys that nobody reads, of a file in which the reader has stopped at the first.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value as Schema;
use serde_saphyr::Spanned;

use super::{error::Complaint, schema};

/// Every key of the text that the schema does not know, in the order of the file. None if it
/// cannot be read at all: whoever could not read it says so.
pub(super) fn keys(file: &str, text: &str) -> Vec<Complaint> {
    let options = serde_saphyr::options! { with_snippet: false };
    let Ok(written) = serde_saphyr::from_str_with_options::<Written>(text, options) else {
        return Vec::new();
    };
    let root = schema();
    let mut found = Vec::new();
    look(&root, &root, &written, (file, ""), &mut found);
    found
}

fn look(
    root: &Schema,
    schema: &Schema,
    written: &Written,
    (file, path): (&str, &str),
    found: &mut Vec<Complaint>,
) {
    let schema = resolved(root, schema);
    let (Written::Map(entries), Some(known)) = (written, schema["properties"].as_object()) else {
        // Of a list, or of any keys at all.
        return;
    };
    for (key, value) in entries {
        let path = match path {
            "" => key.value.clone(),
            path => format!("{path}.{}", key.value),
        };
        match known.get(&key.value) {
            Some(schema) => look(root, schema, value, (file, &path), found),
            None if schema["additionalProperties"] == Schema::Bool(false) => {
                let known: Vec<&str> = known.keys().map(String::as_str).collect();
                found.push(Complaint::unknown_key(
                    (file, key.referenced),
                    path,
                    &key.value,
                    &known,
                ));
            }
            None => {}
        }
    }
}

/// What a schema refers to.
fn resolved<'s>(root: &'s Schema, schema: &'s Schema) -> &'s Schema {
    let referred = schema["$ref"].as_str();
    let pointer = referred.and_then(|referred| referred.strip_prefix('#'));
    pointer
        .and_then(|pointer| root.pointer(pointer))
        .unwrap_or(schema)
}

/// What was written, as far as keys go.
enum Written {
    Map(Vec<(Spanned<String>, Written)>),
    Other,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Written::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
        while items.next_element::<Written>()?.is_some() {}
        Ok(Written::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Written, D::Error> {
        Written::deserialize(deserializer)
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Other)
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Written, E> {
        Ok(Written::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Written, E> {
        Ok(Written::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Written, E> {
        Ok(Written::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Written, E> {
        Ok(Written::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Written, E> {
        Ok(Written::Other)
    }
}
